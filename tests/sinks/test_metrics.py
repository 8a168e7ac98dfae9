from __future__ import annotations

from prometheus_client import REGISTRY

from sinks import metrics


def test_the_table_names_every_metric_of_ours_and_no_other() -> None:
    exposed = {
        family.name + ("_total" if family.type == "counter" else ""): family.documentation
        for family in REGISTRY.collect()
        if family.name.startswith("meterline_")
    }
    assert exposed == metrics.METRICS
