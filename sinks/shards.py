"""A sink whose parts are the shards, and what the parts of one process share: a store's one connection.

(shard key, item) -> `Shared.write`; the end of an epoch -> `Shared.snapshot`, which is a part's state. Opened
with the first part, closed with the last.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from typing_extensions import override

from sinks.failures import logged_failures

T = TypeVar("T")
S = TypeVar("S")
T_contra = TypeVar("T_contra", contravariant=True)


class Shared(Protocol[T_contra, S]):
    """One process's way into a store. Of all threads that have a part."""

    def restore(self, part: str, state: S) -> None:
        """Go on from what `snapshot` gave; not called for a state of None."""

    def write(self, part: str, values: Sequence[T_contra]) -> None:
        """Take what came for a part."""

    def snapshot(self, part: str) -> S:
        """What an epoch keeps of a part; the epoch commits when all parts have returned."""

    def close(self) -> None:
        """After the last part's end, in an exception's way out too."""


class ShardSink(FixedPartitionedSink[T, S], Generic[T, S]):
    """A Bytewax sink over what `open_shared` gives."""

    def __init__(self, shards: int, open_shared: Callable[[], Shared[T, S]]) -> None:
        self._shards, self._open_shared = shards, open_shared
        self._lock = threading.Lock()
        self._shared: Shared[T, S] | None = None
        self._open_parts = 0

    @override
    def list_parts(self) -> list[str]:
        return shard_keys(self._shards)

    @override
    def part_fn(self, item_key: str) -> int:
        return int(item_key)

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: S | None) -> ShardPart[T, S]:
        with self._lock:
            if self._shared is None or not self._open_parts:
                self._shared = self._open_shared()
            self._open_parts += 1
            shared = self._shared
        if resume_state is not None:
            shared.restore(for_part, resume_state)
        return ShardPart(step_id, for_part, shared, self._close_part)

    def _close_part(self) -> None:
        """A closed one stays referred to: freeing a Kafka producer may wait for a broker that is gone."""
        with self._lock:
            self._open_parts -= 1
            shared = None if self._open_parts else self._shared
        if shared is not None:
            shared.close()


class ShardPart(StatefulSinkPartition[T, S], Generic[T, S]):
    """One shard's end of what is shared."""

    def __init__(self, step_id: str, part: str, shared: Shared[T, S], closed: Callable[[], None]) -> None:
        self._step_id, self._part, self._shared, self._closed = step_id, part, shared, closed

    @override
    def write_batch(self, values: list[T]) -> None:
        with logged_failures(self._step_id):
            self._shared.write(self._part, values)

    @override
    def snapshot(self) -> S:
        with logged_failures(self._step_id):
            return self._shared.snapshot(self._part)

    @override
    def close(self) -> None:
        with logged_failures(self._step_id):
            self._closed()


def shard_keys(shards: int) -> list[str]:
    """All keys a stream of ours can have. A sink lists all of them always: Bytewax panics on resume when a
    part that it has state of is no longer listed (measured)."""
    return [f"{shard:03d}" for shard in range(shards)]
