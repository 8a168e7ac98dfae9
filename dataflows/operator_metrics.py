"""What the operators report, on the same `/metrics` page as Bytewax's own metrics. A replay counts again.

Operators know no metrics: the flow hands them these as callbacks.
"""

from __future__ import annotations

from prometheus_client import Counter

METRICS: dict[str, str] = {
    "meterline_dedupe_evicted_ids_total": "Ids forgotten by METERLINE_DEDUPE_IDS_MAX, not by the horizon.",
}
"""Every metric of the operators and its help text."""


def _help(name: str) -> tuple[str, str]:
    return name, METRICS[name]


EVICTED_IDS = Counter(*_help("meterline_dedupe_evicted_ids_total"))
