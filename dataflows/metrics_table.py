"""Every metric of ours in one table: what the sources, operators and sinks count.

Bytewax's own metrics stand on the same `/metrics` page and are not listed.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.metrics import MetricWrapperBase

from dataflows import operator_metrics, source_metrics
from sinks import metrics as sink_metrics

MODULES = (source_metrics, operator_metrics, sink_metrics)

METRICS: dict[str, str] = {name: text for module in MODULES for name, text in module.METRICS.items()}
"""Name -> help text, in the order in which data meets them."""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One line of the table."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def metrics_table() -> list[MetricRow]:
    """Every metric, its kind and labels as it is registered."""
    rows = {}
    for module in MODULES:
        for metric in vars(module).values():
            if isinstance(metric, MetricWrapperBase):
                [family] = metric.describe()
                name = family.name + "_total" * (family.type == "counter")
                rows[name] = MetricRow(name, family.type, tuple(metric._labelnames), family.documentation)
    return [rows[name] for name in METRICS]


def metrics_markdown() -> str:
    """`metrics_table()` as a Markdown table."""
    lines = ["| metric | kind | labels | meaning |\n", "|---|---|---|---|\n"]
    for row in metrics_table():
        labels = ", ".join(f"`{label}`" for label in row.labels)
        lines.append(f"| `{row.name}` | {row.kind} | {labels} | {row.meaning} |\n")
    return "".join(lines)
