"""`meterline run` with a stop watch on each step. The flow's code knows nothing of it.

    python -m benchmarks.measured_flow RESULT.json run --until-end

The functions of `STEPS` are replaced, in this process alone, by ones that add up the CPU seconds of their
thread. A batch is one call, so that the watch itself costs nothing that shows. RESULT.json, at the end:
`Measured`. What is in no step is Bytewax itself and its recovery store.
"""

from __future__ import annotations

import gc
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import TICKS_S

STEPS: tuple[tuple[str, str], ...] = (
    ("consume", "dataflows.sources:KafkaPartition.next_batch"),
    ("decode", "operators.decode:decode_batch"),
    ("meter", "operators.meter:Measure.measure"),
    ("shard", "operators.shard:Sharder.split"),
    ("dedupe", "operators.dedupe:DedupeLogic.on_batch"),
    ("window: fold", "operators.window:WindowLogic.on_batch"),
    ("window: rows", "operators.window:WindowLogic.on_notify"),
    ("window: rows", "operators.window:WindowLogic.on_eof"),
    ("bill: fold", "operators.bill:BillLogic.on_batch"),
    ("bill: rows", "operators.bill:BillLogic.on_notify"),
    ("bill: rows", "operators.bill:BillLogic.on_eof"),
    ("decode_accounts", "operators.decode_accounts:AccountDecoder.decode"),
    ("sinks: buffer rows", "sinks.clickhouse:Writer.write"),
    ("sink wallets: buffer", "sinks.wallets:WalletOutbox.write"),
    ("sink wallets: send", "sinks.wallets:WalletOutbox._deliver"),
    ("snapshot: source", "dataflows.sources:KafkaPartition.snapshot"),
    ("snapshot: dedupe", "operators.dedupe:DedupeLogic.snapshot"),
    ("snapshot: window", "operators.window:WindowLogic.snapshot"),
    ("snapshot: bill", "operators.bill:BillLogic.snapshot"),
    ("snapshot: flush of sinks", "sinks.clickhouse:Writer.snapshot"),
    ("snapshot: wallets", "sinks.wallets:WalletOutbox.snapshot"),
)
"""Step -> what is timed: module:Class.function. None calls another of them."""
INSERT = "sinks.inserts:Inserter.insert"
"""Timed by table: `sink usage_events: insert`, on the thread of each."""


LIBRDKAFKA = "librdkafka's threads"
"""They fetch and decompress. Known by their names, looked at now and then since they end before the flow."""
LOOK_EVERY_S = 0.25


class Measured(msgspec.Struct):
    """What one process measured of itself."""

    cpu_s: dict[str, float] = msgspec.field(default_factory=dict)
    """By step."""
    wall_s: dict[str, float] = msgspec.field(default_factory=dict)
    calls: dict[str, int] = msgspec.field(default_factory=dict)
    process_cpu_s: float = 0.0
    """From the first poll on."""
    collector_cpu_s: float = 0.0
    """Of Python's garbage collector, within steps or not, from then on."""
    stalls_s: list[float] = msgspec.field(default_factory=list)
    """Of each epoch and source partition: from its snapshot until it is polled again."""
    first_batch_at: float = 0.0
    """When the windows took their first slice, in Unix seconds: the state is loaded."""


class Watch:
    """Adds up what threads spend in steps."""

    def __init__(self) -> None:
        self.measured = Measured()
        self._lock = threading.Lock()
        self._began_cpu_s = 0.0
        self._snapshots: dict[int, float] = {}
        self._collection_began_s = 0.0
        self._threads: dict[str, float] = {}

    def install(self) -> None:
        """Replace what `STEPS` names; a name that is gone raises AttributeError."""
        for step, target in STEPS:
            owner, name, original = _find(target)
            setattr(owner, name, self._timed(partial(_named, step), original))
        owner, name, original = _find(INSERT)
        setattr(owner, name, self._timed(lambda a: f"sink {a[0]._table}: insert", original))
        self._note("dataflows.sources:KafkaPartition.next_batch", self._before_poll)
        self._note("dataflows.sources:KafkaPartition.snapshot", self._before_snapshot)
        self._note("operators.window:WindowLogic.on_batch", self._before_windows)
        gc.callbacks.append(self._on_collection)
        threading.Thread(target=self._look_at_threads, daemon=True).start()

    def write(self, file: Path) -> None:
        self.measured.cpu_s[LIBRDKAFKA] = sum(self._threads.values())
        self.measured.process_cpu_s = time.process_time() - self._began_cpu_s
        file.write_bytes(msgspec.json.encode(self.measured))

    def _timed(
        self, step_of: Callable[[tuple[Any, ...]], str], original: Callable[..., Any]
    ) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(original):

            def timed_each(*arguments: Any, **named: Any) -> Iterator[Any]:
                inner, step = original(*arguments, **named), step_of(arguments)
                while True:
                    cpu, wall = time.thread_time(), time.perf_counter()
                    try:
                        item = next(inner)
                    except StopIteration:
                        return
                    finally:
                        self._add(step, time.thread_time() - cpu, time.perf_counter() - wall)
                    yield item

            return timed_each

        def timed(*arguments: Any, **named: Any) -> Any:
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return original(*arguments, **named)
            finally:
                self._add(step_of(arguments), time.thread_time() - cpu, time.perf_counter() - wall)

        return timed

    def _add(self, step: str, cpu_s: float, wall_s: float) -> None:
        measured = self.measured
        with self._lock:
            measured.cpu_s[step] = measured.cpu_s.get(step, 0.0) + cpu_s
            measured.wall_s[step] = measured.wall_s.get(step, 0.0) + wall_s
            measured.calls[step] = measured.calls.get(step, 0) + 1

    @staticmethod
    def _note(target: str, before: Callable[[Any], None]) -> None:
        owner, name, original = _find(target)

        def noted(self: Any, *arguments: Any) -> Any:
            before(self)
            return original(self, *arguments)

        setattr(owner, name, noted)

    def _before_poll(self, partition: Any) -> None:
        if not self._began_cpu_s:
            self._began_cpu_s = time.process_time()
        since = self._snapshots.pop(id(partition), None)
        if since is not None:
            self.measured.stalls_s.append(time.perf_counter() - since)

    def _before_snapshot(self, partition: Any) -> None:
        self._snapshots[id(partition)] = time.perf_counter()

    def _on_collection(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._collection_began_s = time.thread_time()
        elif self._began_cpu_s:
            self.measured.collector_cpu_s += time.thread_time() - self._collection_began_s

    def _look_at_threads(self) -> None:
        while True:
            for task in Path("/proc/self/task").iterdir():
                with suppress(OSError):
                    name, _, fields = (task / "stat").read_text().rpartition(")")
                    if "(rdk:" in name:
                        user, system = fields.split()[11:13]
                        self._threads[task.name] = (int(user) + int(system)) / TICKS_S
            time.sleep(LOOK_EVERY_S)

    def _before_windows(self, _logic: Any) -> None:
        if not self.measured.first_batch_at:
            self.measured.first_batch_at = time.time()


def _named(step: str, _arguments: tuple[Any, ...]) -> str:
    return step


def _find(target: str) -> tuple[Any, str, Any]:
    module, _, path = target.partition(":")
    owner: Any = import_module(module)
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    return owner, name, getattr(owner, name)


def main() -> None:
    file = Path(sys.argv.pop(1))
    watch = Watch()
    watch.install()
    from dataflows.cli import main as meterline  # noqa: PLC0415 - after the watch is in place

    try:
        meterline()
    finally:
        watch.write(file)


if __name__ == "__main__":
    main()
