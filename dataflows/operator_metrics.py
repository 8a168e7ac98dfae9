"""What the operators report, on the same `/metrics` page as Bytewax's own metrics. A replay counts again.

Operators know no metrics: the flow hands them these as callbacks, and taps its streams with the functions
below, once a batch. Gauges of what is held add up over the shards of this process.
"""

from __future__ import annotations

import pyarrow as pa
from prometheus_client import Counter, Gauge

from schemas.events import RawBatch
from schemas.usage import Slice

METRICS: dict[str, str] = {
    "meterline_events_counted_total": "Events that were counted: bad ones and repeats are not.",
    "meterline_events_repeated_total": "Events that were dropped because their id was counted before.",
    "meterline_dedupe_evicted_ids_total": "Ids forgotten by METERLINE_DEDUPE_IDS_MAX, not by the horizon.",
    "meterline_late_readings_total": "Readings that came after their window: billed, and in late_readings.",
    "meterline_windows_held": "Windows that can still change, held by this process.",
    "meterline_accounts_held": "Customers whose bills and wallets this process holds.",
    "meterline_watermark_timestamp_seconds": "Unix time that a partition is read to: now minus the least of"
    " them is the watermark's lag.",
}
"""Every metric of the operators and its help text."""


def _help(name: str) -> tuple[str, str]:
    return name, METRICS[name]


EVENTS_COUNTED = Counter(*_help("meterline_events_counted_total"))
EVENTS_REPEATED = Counter(*_help("meterline_events_repeated_total"))
EVICTED_IDS = Counter(*_help("meterline_dedupe_evicted_ids_total"))
LATE_READINGS = Counter(*_help("meterline_late_readings_total"))
WINDOWS_HELD = Gauge(*_help("meterline_windows_held"))
ACCOUNTS_HELD = Gauge(*_help("meterline_accounts_held"))
WATERMARK = Gauge(*_help("meterline_watermark_timestamp_seconds"), ("topic", "partition"))


def polled(batch: RawBatch) -> RawBatch:
    """Note how far a partition is read."""
    WATERMARK.labels(batch.topic, str(batch.partition)).set(batch.progress_ms / 1000)
    return batch


def counted(piece: Slice) -> Slice:
    """Note how many events were let through."""
    EVENTS_COUNTED.inc(len(piece))
    return piece


def late(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Note how many readings were late."""
    LATE_READINGS.inc(rows.num_rows)
    return rows
