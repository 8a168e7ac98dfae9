"""Let each (tenant_id, id) through once: the first to reach its shard. Slice -> Slice without repeats.

An event is a repeat if the same id was let through and the two records were appended at most
`horizon_s` apart, by the records' own append times in whole seconds; so neither the wall clock nor a
replay changes the verdict. Copies on one partition are judged in offset order.

State, a shard: two sorted numpy columns, identity hash (uint64) and append second (uint32), 12 bytes
an id. Ids leave when every source is `horizon_s` past them, or, oldest first, when there are more
than `ids_max` (counted in `evicted_by_limit`: the horizon is then shorter than asked for).
An identity is a 64-bit hash: with 10 million ids in the horizon, the chance that any two different
ones meet is 3e-6 a horizon.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import bytewax.operators as op
import msgspec
import numpy as np
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic
from typing_extensions import override

from operators.aggregate import locate
from schemas.usage import I64, U32, U64, Mask, Slice, Watermark

FORMAT = 1
RECENT_MAX = 8_192
"""Ids that wait unsorted-in before they are merged into the main columns."""


@dataclass(frozen=True, slots=True)
class DedupeConfig:
    horizon_s: int = 600
    ids_max: int = 250_000


class SeenIds:
    """Which identities were let through, and when they were appended."""

    def __init__(self, config: DedupeConfig) -> None:
        self._config = config
        self.hashes: U64 = np.empty(0, np.uint64)
        self.append_s: U32 = np.empty(0, np.uint32)
        self._recent_hashes: U64 = np.empty(0, np.uint64)
        self._recent_append_s: U32 = np.empty(0, np.uint32)
        self.evicted_by_limit = 0

    def __len__(self) -> int:
        return len(self.hashes) + len(self._recent_hashes)

    def admit(self, identity: U64, append_ms: I64, watermark_s: int) -> Mask:
        """Which rows are new; they are remembered."""
        append_s = (append_ms // 1000).astype(np.uint32)
        order = np.argsort(identity, kind="stable")
        ids, seconds = identity[order], append_s[order]
        fresh = ~self._seen(self.hashes, self.append_s, ids, seconds)
        fresh &= ~self._seen(self._recent_hashes, self._recent_append_s, ids, seconds)
        repeats = np.flatnonzero(ids[1:] == ids[:-1]) + 1
        if len(repeats):
            self._judge_repeats(repeats, seconds, fresh)
        self._remember(ids[fresh], seconds[fresh], watermark_s)
        keep = np.empty(len(order), np.bool_)
        keep[order] = fresh
        return keep

    def _judge_repeats(self, repeats: I64, append_s: U32, fresh: Mask) -> None:
        """Ids that stand several times in one slice are rare: judge them one by one, in offset order."""
        before = last = -1
        for i in repeats.tolist():
            if i - 1 != before:  # the first of another id stands before this one
                last = i - 1 if fresh[i - 1] else -1
            if last >= 0 and abs(int(append_s[i]) - int(append_s[last])) <= self._config.horizon_s:
                fresh[i] = False
            if fresh[i]:
                last = i
            before = i

    def _seen(self, hashes: U64, seconds: U32, ids: U64, append_s: U32) -> Mask:
        at, found = locate(hashes, ids)
        if found.any():
            apart = np.abs(seconds[at[found]].astype(np.int64) - append_s[found].astype(np.int64))
            found[found] = apart <= self._config.horizon_s
        return found

    def _remember(self, ids: U64, append_s: U32, watermark_s: int) -> None:
        again = ids[1:] == ids[:-1]
        if again.any():  # let through twice, further apart than the horizon: the later one counts from here
            latest = np.append(~again, True)
            ids, append_s = ids[latest], append_s[latest]
        self._recent_hashes, self._recent_append_s = _merged(
            self._recent_hashes, self._recent_append_s, ids, append_s
        )
        # A merge copies the main columns; waiting for an eighth of them keeps that at some 30 ns an id.
        if len(self._recent_hashes) > max(RECENT_MAX, len(self.hashes) // 8):
            self.compact(watermark_s)

    def compact(self, watermark_s: int) -> None:
        """Merge the recent ids into the main columns and drop those that can't repeat any more."""
        hashes, seconds = _merged(self.hashes, self.append_s, self._recent_hashes, self._recent_append_s)
        live = seconds.astype(np.int64) >= watermark_s - self._config.horizon_s
        excess = int(live.sum()) - self._config.ids_max
        if excess > 0:
            self.evicted_by_limit += excess
            oldest_kept = np.partition(seconds[live], excess)[excess]
            newer = live & (seconds > oldest_kept)
            ties = np.flatnonzero(live & (seconds == oldest_kept))
            newer[ties[len(ties) - (self._config.ids_max - int(newer.sum())) :]] = True
            live = newer
        self.hashes, self.append_s = hashes[live], seconds[live]
        self._recent_hashes, self._recent_append_s = np.empty(0, np.uint64), np.empty(0, np.uint32)


def _merged(hashes: U64, seconds: U32, new_hashes: U64, new_seconds: U32) -> tuple[U64, U32]:
    """Both sorted columns as one; of an id in both the new append second stays."""
    if not len(new_hashes):
        return hashes, seconds
    at = np.searchsorted(hashes, new_hashes)
    known = np.zeros(len(new_hashes), np.bool_)
    inside = at < len(hashes)
    known[inside] = hashes[at[inside]] == new_hashes[inside]
    if known.any():
        seconds = seconds.copy()
        seconds[at[known]] = new_seconds[known]
    new = ~known
    return np.insert(hashes, at[new], new_hashes[new]), np.insert(seconds, at[new], new_seconds[new])


class _Snapshot(msgspec.Struct, array_like=True):
    format: int
    hashes: bytes
    append_s: bytes
    watermark_ms: int
    sources: dict[str, int]


class DedupeLogic(StatefulBatchLogic[Slice, Slice, bytes]):
    """Dedupe of one shard."""

    def __init__(self, resume: bytes | None, config: DedupeConfig) -> None:
        self._seen = SeenIds(config)
        self._watermark = Watermark()
        if resume is not None:
            state = msgspec.msgpack.decode(resume, type=_Snapshot)
            if state.format != FORMAT:
                raise ValueError(f"dedupe state has format {state.format}, this version reads {FORMAT}")
            self._seen.hashes = np.frombuffer(state.hashes, np.uint64)
            self._seen.append_s = np.frombuffer(state.append_s, np.uint32)
            self._watermark = Watermark(state.watermark_ms, state.sources)

    @override
    def on_batch(self, values: list[Slice]) -> tuple[Iterable[Slice], bool]:
        out = []
        for piece in values:
            if len(piece):
                keep = self._seen.admit(piece.identity, piece.append_ms, self._watermark.at_ms // 1000)
                piece = piece if keep.all() else piece.select(keep)  # noqa: PLW2901 - the slice goes on smaller
            self._watermark.advance(piece.progress)
            out.append(piece)
        return out, self.RETAIN

    @override
    def on_eof(self) -> tuple[Iterable[Slice], bool]:
        return (), self.RETAIN

    @override
    def snapshot(self) -> bytes:
        self._seen.compact(self._watermark.at_ms // 1000)
        return msgspec.msgpack.encode(
            _Snapshot(
                FORMAT,
                self._seen.hashes.tobytes(),
                self._seen.append_s.tobytes(),
                self._watermark.at_ms,
                dict(self._watermark.sources),
            )
        )


@operator
def dedupe(step_id: str, up: KeyedStream[Slice], *, config: DedupeConfig) -> KeyedStream[Slice]:
    """Drop events whose (tenant_id, id) was let through within the horizon."""
    return op.stateful_batch("logic", up, lambda resume: DedupeLogic(resume, config))
