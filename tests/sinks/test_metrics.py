from __future__ import annotations

from prometheus_client.metrics import MetricWrapperBase

from sinks import metrics


def test_the_table_names_every_metric_of_the_sinks_and_no_other() -> None:
    families = [
        family
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase)
        for family in metric.describe()
    ]
    exposed = {
        family.name + "_total" * (family.type == "counter"): family.documentation for family in families
    }
    assert exposed == metrics.METRICS
