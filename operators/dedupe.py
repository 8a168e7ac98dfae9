"""Let each (tenant_id, customer, id) through once: the first to arrive. Slice -> Slice without repeats.

The customer is part of it because a shard sees only its own customers: an id that two of them share would
be a repeat if their shards happened to be one, and a good event would be gone without a trace.

An event is a repeat if the same id was let through and the two records were appended at most
`horizon_s` apart, by the records' own append times in whole seconds; so neither the wall clock nor a
replay changes the verdict. Copies on one partition are judged in offset order.

State, a shard: the ids (operators/seen_ids.py), which a snapshot has whole or, with an archive, but for files
that are written once (operators/id_log.py), and how far each source is.

Ids leave when every source is `horizon_s` past them, or, oldest first, when there are more than `ids_max`
(`on_evicted` is told: the horizon is then shorter than asked for). Both are looked for after `RECENT_MAX`
ids or an eighth of all have come, and of a small shard at each snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import bytewax.operators as op
import msgspec
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic
from typing_extensions import override

from operators.archive import Archive
from operators.id_log import IdLog, StoredLog
from operators.seen_ids import RECENT_MAX, DedupeConfig, OnEvicted, SeenIds, ignore
from operators.shard import shard_key
from operators.snapshot_files import SnapshotFiles
from operators.snapshot_format import check_format
from schemas.usage import Slice, Watermark

__all__ = ["DedupeConfig", "DedupeLogic", "dedupe"]

FORMAT = 4
OnRepeated: TypeAlias = Callable[[int], None]
"""Told how many events of a slice were repeats."""


class _Snapshot(msgspec.Struct, array_like=True):
    format: int
    log: StoredLog
    watermark_ms: int
    sources: dict[str, int]


class DedupeLogic(StatefulBatchLogic[Slice, Slice, bytes]):
    """Dedupe of one shard."""

    def __init__(
        self,
        resume: bytes | None,
        config: DedupeConfig,
        on_evicted: OnEvicted = ignore,
        on_repeated: OnRepeated = ignore,
        archive: Archive | None = None,
    ) -> None:
        log, self._watermark = IdLog(archive), Watermark()
        self._files = SnapshotFiles(archive)
        if resume is not None:
            snapshot = self._files.found(resume)
            check_format(snapshot, "dedupe", FORMAT)
            state = msgspec.msgpack.decode(snapshot, type=_Snapshot)
            log = IdLog(archive, state.log)
            self._watermark = Watermark(state.watermark_ms, state.sources)
        self._seen = SeenIds(config, on_evicted, log)
        self._on_repeated = on_repeated

    @override
    def on_batch(self, values: list[Slice]) -> tuple[Iterable[Slice], bool]:
        out = []
        for piece in values:
            self._seen.log.open(f"ids-{shard_key(piece.shard)}")
            self._files.open(f"snapshot-ids-{shard_key(piece.shard)}")
            if len(piece):
                keep = self._seen.admit(piece.identity, piece.append_ms, self._watermark.at_ms // 1000)
                if not keep.all():
                    self._on_repeated(len(keep) - int(keep.sum()))
                    piece = piece.select(keep)  # noqa: PLW2901 - the slice goes on smaller
            self._watermark.advance(piece.progress)
            out.append(piece)
        return out, self.RETAIN

    @override
    def on_eof(self) -> tuple[Iterable[Slice], bool]:
        return (), self.RETAIN

    @override
    def snapshot(self) -> bytes:
        seen = self._seen
        if len(seen) <= RECENT_MAX:
            seen.compact(self._watermark.at_ms // 1000)
        state = _Snapshot(FORMAT, seen.log.dump(), self._watermark.at_ms, dict(self._watermark.sources))
        return self._files.stored(msgspec.msgpack.encode(state))


@operator
def dedupe(
    step_id: str,
    up: KeyedStream[Slice],
    *,
    config: DedupeConfig,
    on_evicted: OnEvicted = ignore,
    on_repeated: OnRepeated = ignore,
    archive: Archive | None = None,
) -> KeyedStream[Slice]:
    """Drop events whose (tenant_id, customer, id) was let through within the horizon.

    :arg on_evicted: Called with the number of ids that `ids_max`, not the horizon, has just evicted.
    :arg on_repeated: Called with the number of events of a slice that were dropped.
    :arg archive: Files beside the recovery store; without them every snapshot has all ids.
    """
    return op.stateful_batch(
        "logic", up, lambda resume: DedupeLogic(resume, config, on_evicted, on_repeated, archive)
    )
