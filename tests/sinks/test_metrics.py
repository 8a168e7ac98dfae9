from __future__ import annotations

import numpy as np
from prometheus_client import CollectorRegistry
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


def test_a_batch_of_values_counts_as_each_of_them() -> None:
    values = [0.0, 0.01, 0.010001, 0.5, 1.0, 7.0]
    single, batch = CollectorRegistry(), CollectorRegistry()
    one = metrics.BatchHistogram("h", "help", buckets=(0.01, 1.0), registry=single)
    for value in values:
        one.observe(value)
    many = metrics.BatchHistogram("h", "help", buckets=(0.01, 1.0), registry=batch)
    many.observe_all(np.array(values))
    many.observe_all(np.array([]))
    for bound, count in (("0.01", 2), ("1.0", 5), ("+Inf", 6)):
        for registry in (single, batch):
            assert registry.get_sample_value("h_bucket", {"le": bound}) == count
    assert single.get_sample_value("h_sum") == batch.get_sample_value("h_sum")
