"""The windows of one shard, with a clock that the test moves and the rows as dicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from operators.hyperloglog import UniqueSketch
from operators.snapshot_files import SnapshotFiles
from operators.window import LateRows, WindowConfig, WindowLogic
from operators.window_state import WindowedMeter, WindowState, restore
from schemas.events import Progress
from schemas.meters import Meter
from schemas.usage import Slice
from tests.builders import NOON, usage_event
from tests.operators.batches import NOON_MS, one_slice
from tests.operators.mortal_files import MortalFiles

Row = dict[str, Any]


def usage_rows(batches: Sequence[Any]) -> list[Row]:
    """Upserted windows, `uniques` counted."""
    rows: list[Row] = [row for batch in batches for row in batch.to_pylist()]
    for row in rows:
        row["uniques"] = UniqueSketch.from_state(row["uniques"]).count()
    return rows


def tokens(value: Any = 100, **more: Any) -> Row:
    return usage_event({"tokens": value}, **more)


def brief(rows: list[Row]) -> list[tuple[str, datetime, int, Decimal, int]]:
    return sorted(
        (row["external_customer_id"], row["window_start"], row["events"], row["total"], row["version"])
        for row in rows
    )


class WindowShard:
    """`WindowLogic` by hand."""

    def __init__(
        self,
        *meters: Meter,
        generation: int = 0,
        snapshot: bytes | None = None,
        now: datetime = NOON,
        on_held: Callable[[int], None] = lambda _: None,
        archive: MortalFiles | None = None,
    ) -> None:
        self.meters = meters
        self.archive = archive or MortalFiles()
        self.now = now
        windowed = [WindowedMeter.of(meter) for meter in meters]
        self.config = WindowConfig(windowed, generation=generation)
        self.logic = WindowLogic(snapshot, self.config, lambda: self.now, on_held, self.archive)

    def resumed(self, *meters: Meter) -> WindowShard:
        """A new process from this one's snapshot, with other meters if given."""
        return WindowShard(
            *(meters or self.meters), snapshot=self.logic.snapshot(), now=self.now, archive=self.archive
        )

    def take(
        self, *events: Row, append_ms: Sequence[int] | int = NOON_MS, partition: int = 0, partitions: int = 1
    ) -> list[Row]:
        """Take one poll; the late readings."""
        found = one_slice(self.meters, events, append_ms, partition=partition, partitions=partitions)
        return self.take_slices(found)

    def take_slices(self, *pieces: Slice) -> list[Row]:
        out, is_done = self.logic.on_batch(list(pieces))
        assert is_done is WindowLogic.RETAIN
        assert all(isinstance(item, LateRows) for item in out)
        return [row for item in out for row in item.rows.to_pylist()]

    def hear(self, append_ms: int, partition: int = 0, partitions: int = 1) -> None:
        """A heartbeat: the partition has come so far."""
        progress = Progress(f"usage-events/{partition}", append_ms, partitions)
        self.take_slices(replace(one_slice(self.meters, []), progress=(progress,)))

    def tick(self, seconds: float = 1) -> list[Row]:
        """Let time pass; the windows that are sent."""
        self.now += timedelta(seconds=seconds)
        if self.due is None or self.due > self.now:
            return []
        out, is_done = self.logic.on_notify()
        assert is_done is WindowLogic.RETAIN
        return usage_rows(list(out))

    @property
    def due(self) -> datetime | None:
        return self.logic.notify_at()

    @property
    def state(self) -> WindowState:
        snapshot = SnapshotFiles(self.archive).found(self.logic.snapshot())
        return restore(snapshot, self.config.meters, deepcopy(self.archive))
