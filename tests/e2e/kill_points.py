"""`meterline` that kills itself with SIGKILL at a chosen place: where a crash could cost or count twice.

    python -m tests.e2e.kill_points PLACE COUNT run --until-end

PLACE is one of `PLACES`, COUNT the time that it gets there. The product has no hooks for this: a method of it
is wrapped here, before the flow is built.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from dataflows.sources import KafkaPartition
from dataflows.state_files import StateFiles
from operators.archive import Parts
from operators.bill import BillLogic
from operators.dedupe import DedupeLogic
from operators.window import WindowLogic
from sinks.dead_letter_topic import TopicWriter
from sinks.inserts import Inserter
from sinks.kept_rows import KeptRows
from sinks.topic import PRODUCER_OPTIONS
from sinks.wallet_store import WalletStore
from sinks.wallets import WalletsSink
from tests.e2e.small_files import main

STUCK_S = 3.0
"""Several epochs, which commit with rows that are not acknowledged."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wrap(owner: type, name: str, around: Callable[..., Any]) -> None:
    """`around(method, *arguments)` is called instead."""
    method = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        return around(method, *arguments, **options)

    setattr(owner, name, wrapped)


def nth(times: int, happened: Callable[..., bool] = lambda *_: True) -> Callable[..., bool]:
    """True from the `times`-th time on that `happened`."""
    numbers, lock = count(1), threading.Lock()

    def reached(*arguments: Any) -> bool:
        with lock:
            return bool(happened(*arguments)) and next(numbers) >= times

    return reached


def after(owner: type, name: str, times: int, happened: Callable[..., bool] = lambda *_: True) -> None:
    """Die when the method has returned for the `times`-th time."""
    reached = nth(times, happened)

    def around(method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        result = method(*arguments, **options)
        if reached(*arguments):
            die()
        return result

    wrap(owner, name, around)


def before(owner: type, name: str, times: int, happened: Callable[..., bool] = lambda *_: True) -> None:
    """Die when the method is called for the `times`-th time."""
    reached = nth(times, happened)

    def around(method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if reached(*arguments):
            die()
        return method(*arguments, **options)

    wrap(owner, name, around)


def is_table(name: str) -> Callable[..., bool]:
    return lambda inserter, *_: inserter._table == name


def rows_kept(times: int) -> None:
    """Rows that ClickHouse does not have yet are in a file, and no snapshot names it."""
    after(KeptRows, "stored", times, lambda _kept, rows: len(rows) > 0)


def rows_begun(times: int) -> None:
    """Rows are in a file, too, before their epoch's end."""
    after(KeptRows, "begin", times)


def rows_resuming(times: int) -> None:
    """Rows that were kept are read, and ClickHouse does not have them yet."""
    after(KeptRows, "found", times)


def insert_acknowledged(table: str) -> Callable[[int], None]:
    """ClickHouse has the rows, the process does not know it yet."""
    return lambda times: after(Inserter, "insert", times, is_table(table))


def insert_stuck(times: int) -> None:
    """Rows of windows are under way for several epochs, then lost with the process."""
    reached = nth(times, is_table("usage_windows"))

    def around(method: Callable[..., Any], *arguments: Any) -> Any:
        if reached(*arguments):
            time.sleep(STUCK_S)
            die()
        return method(*arguments)

    wrap(Inserter, "insert", around)


def redis_acknowledged(times: int) -> None:
    """Redis has applied wallets, the outbox still holds them."""
    after(WalletStore, "apply", times, lambda store, rows: len(rows) > 0)


def redis_stuck(times: int) -> None:
    """Wallets wait for Redis through several epochs, then the process dies."""
    reached = nth(times, lambda store, rows: len(rows) > 0)

    def around(method: Callable[..., Any], *arguments: Any) -> Any:
        if reached(*arguments):
            time.sleep(STUCK_S)
            die()
        return method(*arguments)

    wrap(WalletStore, "apply", around)


def dead_letters_acknowledged(times: int) -> None:
    """The dead-letter topic has an epoch's records, the epoch is open."""
    after(TopicWriter, "flush", times)


def dead_letters_lingering(times: int) -> None:
    """What is not flushed stays in the producer, through several epochs, and is lost with the process."""
    PRODUCER_OPTIONS["linger.ms"] = 30_000  # below the delivery timeout
    after(KafkaPartition, "snapshot", times)


def in_a_snapshot(logic: type) -> Callable[[int], None]:
    """Some shards are in the snapshot of an epoch, others are not."""
    return lambda times: before(logic, "snapshot", times)


def offsets_in_a_snapshot(times: int) -> None:
    """The position of a partition is in the snapshot, the state of the shards is not."""
    after(KafkaPartition, "snapshot", times)


def is_file_of(state: str) -> Callable[..., bool]:
    return lambda _, name, *rest: name.startswith(f"{state}-")


def file_written(state: str) -> Callable[[int], None]:
    """A file of state is there, and no snapshot names it."""
    return lambda times: after(StateFiles, "put", times, is_file_of(state))


def file_left(state: str) -> Callable[[int], None]:
    """A snapshot that names another file is committed, and the file before is still there."""

    def happened(parts: Parts) -> bool:
        return parts.prefix.startswith(f"{state}-") and len(parts._left[0]) > 0

    return lambda times: before(Parts, "note_snapshot", times, happened)


def file_deleted(state: str) -> Callable[[int], None]:
    """Of the files that a crash or a newer file left, some are deleted."""
    return lambda times: after(StateFiles, "delete", times, is_file_of(state))


def resuming(logic: type) -> Callable[[int], None]:
    """Some shards are restored, others are not."""
    return lambda times: after(logic, "__init__", times, lambda _, resume, *rest: resume is not None)


def wallets_resuming(times: int) -> None:
    """Wallets that were pending are on their way to Redis again; most shards are not built."""
    after(WalletsSink, "build_part", times)


PLACES: dict[str, Callable[[int], None]] = {
    "rows-kept": rows_kept,
    "rows-begun": rows_begun,
    "rows-resume": rows_resuming,
    "windows-acknowledged": insert_acknowledged("usage_windows"),
    "events-acknowledged": insert_acknowledged("usage_events"),
    "charges-acknowledged": insert_acknowledged("usage_charges"),
    "insert-stuck": insert_stuck,
    "redis-acknowledged": redis_acknowledged,
    "redis-stuck": redis_stuck,
    "dead-letters-acknowledged": dead_letters_acknowledged,
    "dead-letters-lingering": dead_letters_lingering,
    "dedupe-snapshot": in_a_snapshot(DedupeLogic),
    "window-snapshot": in_a_snapshot(WindowLogic),
    "bill-snapshot": in_a_snapshot(BillLogic),
    "offsets-snapshot": offsets_in_a_snapshot,
    "ids-written": file_written("ids"),
    "ids-deleted": file_deleted("ids"),
    "windows-written": file_written("window"),
    "windows-left": file_left("window"),
    "minutes-written": file_written("bill"),
    "minutes-deleted": file_deleted("bill"),
    "accounts-written": file_written("accounts"),
    "accounts-deleted": file_deleted("accounts"),
    "dedupe-resume": resuming(DedupeLogic),
    "window-resume": resuming(WindowLogic),
    "bill-resume": resuming(BillLogic),
    "wallets-resume": wallets_resuming,
}


if __name__ == "__main__":
    PLACES[sys.argv.pop(1)](int(sys.argv.pop(1)))
    main()
