"""The benchmarks on real engines, small: every step that they time is there, and what is stored is right."""

from collections.abc import Iterator

import pytest

from benchmarks.bed import Bed, bed
from benchmarks.cost import REST, cost
from benchmarks.events import Shape
from benchmarks.machine import cores
from benchmarks.measured_flow import LIBRDKAFKA, STEPS
from benchmarks.tables import README
from benchmarks.throughput import bytewax, meterline

SMALL = Shape(2000, customers=50, users=500, rate=100)


@pytest.fixture(scope="module")
def small_bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with bed("embedded", tmp_path_factory.mktemp("bed") / "bed", cores()) as running:
        yield running


def test_every_step_is_timed_and_the_flow_stays_right(small_bed: Bed) -> None:
    found = cost(small_bed, SMALL)
    sinks = {f"sink {table}: insert" for table in ("usage_events", "usage_windows", "usage_charges")}
    assert found.by_step.keys() == {step for step, _ in STEPS} | sinks | {LIBRDKAFKA, REST}
    assert found.verdict.endswith("rows right")


def test_a_cluster_is_held_to_the_truth(small_bed: Bed) -> None:
    assert meterline(small_bed, SMALL, processes=2).verdict.endswith("rows right")


def test_the_per_event_flow_counts_repeats_and_nothing_else_wrongly(small_bed: Bed) -> None:
    repeats = int(small_bed.preload(SMALL).events.duplicate.sum())
    assert bytewax(small_bed, SMALL).verdict.endswith(f"windows wrong: {repeats} repeats counted twice")


def test_the_readme_has_a_place_for_every_table() -> None:
    text = README.read_text()
    for section in ("throughput", "cost", "latency", "growth"):
        for broker in ("embedded", "apache"):
            name = f"{section} {broker}"
            assert text.index(f"<!-- {name} -->") < text.index(f"<!-- /{name} -->")
