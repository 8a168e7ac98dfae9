"""What the sources count, on the same `/metrics` page as Bytewax's own metrics. A replay counts again."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

METRICS: dict[str, str] = {
    "meterline_source_records_total": "Records read from a partition.",
    "meterline_source_bytes_total": "Bytes of the payloads read from a partition.",
    "meterline_source_lag_messages": "Records of a partition that are not read yet.",
    "meterline_source_connected": "1 while the broker that leads a partition answers, else 0.",
}
"""Every metric of the sources and its help text."""

_PARTITION = ("topic", "partition")


def _help(name: str) -> tuple[str, str]:
    return name, METRICS[name]


RECORDS = Counter(*_help("meterline_source_records_total"), _PARTITION)
BYTES = Counter(*_help("meterline_source_bytes_total"), _PARTITION)
LAG_MESSAGES = Gauge(*_help("meterline_source_lag_messages"), _PARTITION)
CONNECTED = Gauge(*_help("meterline_source_connected"), _PARTITION)
