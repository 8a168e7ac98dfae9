"""Live wallets into Redis, without ever holding metering back.

(shard key, [WalletRow]) -> the hash of each wallet, and its delta to subscribers (`sinks.wallet_store`).
Rows wait in an outbox, the newest of each wallet; one thread a process sends them. `snapshot()` does not
wait for Redis: it returns the rows that are not acknowledged, and a resumed part sends them again.
A replay is harmless because a row is the whole wallet, and `wallets.lua` applies it only if its version is
higher, or equal with other amounts, and publishes the difference to what is stored: each delta once.

State of a part: a format version byte, then msgpack of its pending rows. Its size, and the outbox's, is
bounded by the number of wallets. While Redis is away rows are retried for ever; a Redis that lost its
data, or refuses a key for good, ends the process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from itertools import chain, islice

import msgspec
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, stop_when_event_set
from tenacity import wait_exponential_jitter as exponential_jitter
from typing_extensions import override

from schemas.wallets import WalletRow
from sinks import metrics
from sinks.clickhouse import shard_keys
from sinks.failures import Fault, log_retry, logged_failures, redis_fault
from sinks.wallet_store import STALE, RedisConfig, RedisEmptied, WalletStore, WalletView, read_wallet

__all__ = ["Outbox", "RedisConfig", "RedisEmptied", "WalletView", "WalletsSink", "read_wallet"]

logger = logging.getLogger(__name__)

STEP = "wallets"
STATE_FORMAT = b"\x01"

Wallet = tuple[str, str, str]
"""tenant_id, external_customer_id, currency."""


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Outbox:
    """The newest row of each wallet that Redis has not acknowledged, and the thread that sends them."""

    def __init__(self, config: RedisConfig, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._config, self._now_ms = config, now_ms
        self._store = WalletStore(config, now_ms)
        self._stop = threading.Event()
        self._changed = threading.Condition()
        # All below is guarded by `_changed`. A row stays pending until it is acknowledged itself: one that
        # replaces it while it is under way is another object.
        self._pending: dict[str, dict[Wallet, WalletRow]] = {}
        self._turn = 0
        self._error: Exception | None = None
        self._is_error_raised = False
        self._thread: threading.Thread | None = None

    def put(self, part: str, rows: list[WalletRow]) -> None:
        """Queue rows of a part; of one wallet the highest version stays, the later one of equal versions."""
        if not rows:
            return
        with self._changed:
            self._raise_error()
            pending = self._pending.setdefault(part, {})
            for row in rows:
                wallet = (row.tenant_id, row.external_customer_id, row.currency)
                queued = pending.get(wallet)
                if queued is None or row.version >= queued.version:
                    pending[wallet] = row
            self._count_pending()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=STEP, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def pending(self, part: str) -> list[WalletRow]:
        with self._changed:
            self._raise_error()
            return list(self._pending.get(part, {}).values())

    def close(self) -> None:
        """Give Redis `drain_s` for what is pending, then stop. What is left stays in the last snapshots."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._count_pending(), self._config.drain_s)
            left = self._count_pending()
            self._stop.set()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._store.close()
        if left:
            logger.warning("%d wallets are not in Redis yet; the next start sends them", left)
        # Bytewax closes parts while an exception of a step unwinds it, and a second one then aborts the
        # process, before it can say why it ends.
        if not self._is_error_raised:
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            self._is_error_raised = True
            raise self._error

    def _count_pending(self) -> int:
        pending = sum(map(len, self._pending.values()))
        metrics.WALLETS_PENDING.set(pending)
        return pending

    def _run(self) -> None:
        retrying = Retrying(
            retry=retry_if_exception(lambda error: redis_fault(error) is Fault.TRANSIENT),
            wait=exponential_jitter(multiplier=0.02, max=self._config.retry_interval_max_s, jitter=0.02),
            stop=stop_when_event_set(self._stop),
            sleep=sleep_using_event(self._stop),
            before_sleep=self._note_retry,
            reraise=True,
        )
        try:
            while not self._stop.is_set():
                retrying(self._deliver)
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._stop.is_set() or any(self._pending.values()),
                        self._config.check_interval_s,
                    )
        except Exception as error:
            if self._stop.is_set() and redis_fault(error) is Fault.TRANSIENT:
                return
            logger.exception("step %s can't go on", STEP)
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _deliver(self) -> None:
        """One pipeline of what is pending now; of nothing, it only checks that Redis has its data."""
        sent = self._take()
        started = time.perf_counter()
        answers = self._store.apply([row for _, row in sent])
        metrics.WRITE_SECONDS.labels(STEP).observe(time.perf_counter() - started)
        metrics.WRITES.labels(STEP).inc()
        metrics.ROWS.labels(STEP).inc(len(sent))
        metrics.CIRCUIT_OPEN.labels(STEP).set(0)
        now_ms = self._now_ms()
        for (_, row), answer in zip(sent, answers, strict=True):
            if answer == STALE:
                metrics.WALLET_UPDATES.labels("stale").inc()
            else:
                metrics.WALLET_UPDATES.labels("new").inc()
                metrics.WALLET_FRESHNESS_SECONDS.observe(max(0, now_ms - row.as_of_ms) / 1000)
        with self._changed:
            for part, row in sent:
                pending = self._pending[part]
                wallet = (row.tenant_id, row.external_customer_id, row.currency)
                if pending.get(wallet) is row:
                    del pending[wallet]
            self._count_pending()
            self._changed.notify_all()

    def _take(self) -> list[tuple[str, WalletRow]]:
        """Rows of one pipeline; another part goes first each time, so that none waits behind the others."""
        with self._changed:
            parts = list(self._pending)
            self._turn = (self._turn + 1) % max(1, len(parts))
            turned = parts[self._turn :] + parts[: self._turn]
            rows = chain.from_iterable(
                ((part, row) for row in self._pending[part].values()) for part in turned
            )
            return list(islice(rows, self._config.batch_rows_max))

    def _note_retry(self, state: RetryCallState) -> None:
        metrics.RETRIES.labels(STEP).inc()
        metrics.CIRCUIT_OPEN.labels(STEP).set(1)
        log_retry(STEP, state)


class WalletsSink(FixedPartitionedSink[list[WalletRow], bytes]):
    """Wallets as a Bytewax sink. Its parts are the shards; those of one process share an `Outbox`."""

    def __init__(self, config: RedisConfig, shards: int) -> None:
        self._config, self._shards = config, shards
        self._lock = threading.Lock()
        self._outbox: Outbox | None = None
        self._open_parts = 0

    @override
    def list_parts(self) -> list[str]:
        return shard_keys(self._shards)

    @override
    def part_fn(self, item_key: str) -> int:
        return int(item_key)

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> WalletsPart:
        with self._lock:
            if self._outbox is None:
                self._outbox = Outbox(self._config)
            self._open_parts += 1
        if resume_state is not None:
            self._outbox.put(for_part, rows_of_state(resume_state))
        return WalletsPart(step_id, for_part, self._outbox, self._close_part)

    def _close_part(self) -> None:
        with self._lock:
            self._open_parts -= 1
            if self._open_parts == 0 and self._outbox is not None:
                outbox, self._outbox = self._outbox, None
                outbox.close()


class WalletsPart(StatefulSinkPartition[list[WalletRow], bytes]):
    """One shard's end of the outbox."""

    def __init__(self, step_id: str, part: str, outbox: Outbox, closed: Callable[[], None]) -> None:
        self._step_id, self._part, self._outbox, self._closed = step_id, part, outbox, closed

    @override
    def write_batch(self, values: list[list[WalletRow]]) -> None:
        with logged_failures(self._step_id):
            self._outbox.put(self._part, [row for rows in values for row in rows])

    @override
    def snapshot(self) -> bytes:
        with logged_failures(self._step_id):
            return state_of_rows(self._outbox.pending(self._part))

    @override
    def close(self) -> None:
        with logged_failures(self._step_id):
            self._closed()


_STATE = msgspec.msgpack.Decoder(list[tuple[str, str, str, Decimal, Decimal, Decimal, Decimal, int, int]])


def state_of_rows(rows: list[WalletRow]) -> bytes:
    """Rows as bytes that do not name a class, which may move."""
    fields = [
        (
            row.tenant_id,
            row.external_customer_id,
            row.currency,
            row.balance,
            row.unpaid_invoices,
            row.usage,
            row.available,
            row.version,
            row.as_of_ms,
        )
        for row in rows
    ]
    return STATE_FORMAT + msgspec.msgpack.encode(fields)


def rows_of_state(state: bytes) -> list[WalletRow]:
    if state[:1] != STATE_FORMAT:
        raise ValueError(
            f"the recovery store has pending wallets in format {state[0]}, newer than {STATE_FORMAT[0]}"
        )
    return [WalletRow(*fields) for fields in _STATE.decode(state[1:])]
