"""What Redis has not acknowledged, and the one thread a process that sends it: metering never waits for it.

Items of a part, by key -> pipelines of at most `batch_rows_max`; while Redis is away they are sent again for
ever. A snapshot does not wait: it is a format version byte, then msgpack of the part's items that are not
acknowledged, and a resumed part sends them again. Why a repeat is harmless: `sinks.wallets`,
`sinks.live_alerts`.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import islice
from typing import Generic, TypeVar

import msgspec
from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, stop_when_event_set
from tenacity import wait_exponential_jitter as exponential_jitter

from sinks import metrics
from sinks.failures import Fault, log_retry, redis_fault
from sinks.wallet_store import RedisConfig

logger = logging.getLogger(__name__)

STATE_FORMAT = b"\x01"

K = TypeVar("K")
T = TypeVar("T")


class Outbox(ABC, Generic[K, T]):
    """Items by part and key, and their thread. The thread starts with the first item.

    :arg step: The step's id, for metrics.
    :arg state: How items are kept in a snapshot.
    :arg check_interval_s: How often an idle thread sends nothing, to look whether Redis has its data.
    """

    def __init__(
        self, config: RedisConfig, step: str, state: State[T], check_interval_s: float | None = None
    ) -> None:
        self._config, self._step, self._state, self._check_interval_s = config, step, state, check_interval_s
        self._stop = threading.Event()
        self._changed = threading.Condition()
        # All below is guarded by `_changed`. An item stays pending until it is acknowledged itself: one that
        # replaces it while it is under way is another object.
        self._pending: dict[str, dict[K, T]] = {}
        self._error: Exception | None = None
        self._is_error_raised = False
        self._thread: threading.Thread | None = None

    @abstractmethod
    def queue(self, pending: dict[K, T], items: Sequence[T]) -> None:
        """Add items to a part's. The flow waits meanwhile."""

    @abstractmethod
    def send(self, items: list[T]) -> None:
        """Return when Redis has acknowledged them. What `redis_fault` calls passing is tried again."""

    @abstractmethod
    def disconnect(self) -> None:
        """After the last `send`."""

    def write(self, part: str, values: Sequence[Sequence[T]]) -> None:
        """Queue items of a part."""
        items = [item for items in values for item in items]
        if not items:
            return
        with self._changed:
            self._raise_error()
            self.queue(self._pending.setdefault(part, {}), items)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._step, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def restore(self, part: str, state: bytes) -> None:
        self.write(part, [self._state.decode(state)])

    def snapshot(self, part: str) -> bytes:
        with self._changed:
            self._raise_error()
            pending = list(self._pending.get(part, {}).values())
        return self._state.encode(pending)

    def count_pending(self) -> int:
        with self._changed:
            return self._count()

    def close(self) -> None:
        """Give Redis `drain_s` for what is pending, then stop. What is left stays in the last snapshots."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._count(), self._config.drain_s)
            left = self._count()
            self._stop.set()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self.disconnect()
        if left:
            logger.warning("%d %s are not in Redis yet; the next start sends them", left, self._state.what)
        # Bytewax closes parts while an exception of a step unwinds it, and a second one then aborts the
        # process, before it can say why it ends.
        if not self._is_error_raised:
            self._raise_error()

    def _count(self) -> int:
        return sum(map(len, self._pending.values()))

    def _raise_error(self) -> None:
        if self._error is not None:
            self._is_error_raised = True
            raise self._error

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
                        lambda: self._stop.is_set() or any(self._pending.values()), self._check_interval_s
                    )
        except Exception as error:
            if self._stop.is_set() and redis_fault(error) is Fault.TRANSIENT:
                return
            logger.exception("step %s can't go on", self._step)
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _deliver(self) -> None:
        """One pipeline of what is pending now."""
        taken = self._take()
        items = [item for _, taken_of_part in taken for _, item in taken_of_part]
        started = time.perf_counter()
        self.send(items)
        metrics.WRITE_SECONDS.labels(self._step).observe(time.perf_counter() - started)
        metrics.WRITES.labels(self._step).inc()
        metrics.ROWS.labels(self._step).inc(len(items))
        metrics.CIRCUIT_OPEN.labels(self._step).set(0)
        with self._changed:
            for pending, taken_of_part in taken:
                for key, item in taken_of_part:
                    if pending.get(key) is item:
                        del pending[key]
            self._changed.notify_all()

    def _take(self) -> list[tuple[dict[K, T], list[tuple[K, T]]]]:
        """The oldest items of each part, for one pipeline. Parts share it evenly, and one that has less
        leaves its room to the others, so that a part's few never wait behind another's many."""
        taken = []
        room = self._config.batch_rows_max
        with self._changed:
            waiting = sorted(filter(None, self._pending.values()), key=len)
            for after, pending in zip(range(len(waiting), 0, -1), waiting, strict=True):
                share = room // after
                taken.append((pending, list(islice(pending.items(), share))))
                room -= len(taken[-1][1])
        return taken

    def _note_retry(self, state: RetryCallState) -> None:
        metrics.RETRIES.labels(self._step).inc()
        metrics.CIRCUIT_OPEN.labels(self._step).set(1)
        log_retry(self._step, state)


class State(Generic[T]):
    """Items as bytes that do not name their class, which may move: it is an array-like msgspec struct."""

    def __init__(self, item: type[T], what: str) -> None:
        """`what`: the items, for who reads an error."""
        self.what = what
        self._decoder = msgspec.msgpack.Decoder(list[item])  # type: ignore[valid-type]  # known when it runs

    def encode(self, items: list[T]) -> bytes:
        return STATE_FORMAT + msgspec.msgpack.encode(items)

    def decode(self, state: bytes) -> list[T]:
        if state[:1] != STATE_FORMAT:
            formats = f"format {state[0]}, newer than {STATE_FORMAT[0]}"
            raise ValueError(f"the recovery store has pending {self.what} in {formats}")
        return self._decoder.decode(state[1:])
