"""What live cells cost: throughput, memory, stalls and resume at a thousand to a million of them.

A cell is a (customer, meter, window) whose window may still change. A log of always the same size first
fills the cells, and the flow drains. Then as many new events again come for the newest minute, and the
resumed flow is measured over them. They are of the first few customers, always the same, so that only what is
held differs between rows; or of all customers, each of whom then has windows, charges and a wallet to send.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.bed import PARTITIONS, Bed
from benchmarks.catalog import NAMES
from benchmarks.cost import measured_run
from benchmarks.events import Events, Shape, draw
from benchmarks.machine import Load

METERS, WINDOWS = 5, 10
MINUTE_MS = 60_000
STATEFUL = ("dedupe", "window", "bill")


@dataclass(frozen=True)
class Growth:
    """The flow, resumed with so many live cells. `stall_*`: how long a source stood still for an epoch."""

    broker: str
    cells: int
    active: int
    """Customers that the measured events are of."""
    rate: float
    rss_mb: float
    stall_mean_ms: float
    stall_max_ms: float
    snapshot_ms: dict[str, float]
    """Of one epoch, on average, by step: the part of a stall that encoding the state takes."""
    resume_s: float
    """From the process's start, imports and all, to the first slice in a window."""
    load: str


def growth_of(bed: Bed, cells: Sequence[int], events: int, rounds: int) -> Iterator[Growth]:
    """First with as many customers active as the fewest cells have, then with all; the best of its rounds."""
    customers = [max(1, count // (METERS * WINDOWS)) for count in cells]
    few, fill = min(customers), max(customers) * WINDOWS * len(NAMES)
    plan = [(held, few) for held in customers] + [(held, held) for held in customers if held > few]
    runs = [[_growth(bed, *row, fill, events) for row in plan] for _ in range(rounds)]
    for of_row in zip(*runs, strict=True):
        yield max(of_row, key=lambda run: run.rate)


def _growth(bed: Bed, customers: int, active: int, fill: int, events: int) -> Growth:
    """`fill`: how many events fill the cells."""
    topic, before = f"growth-{len(bed.logs)}", Load.now()
    base_ms = round(time.time() * 1000) // MINUTE_MS * MINUTE_MS - (WINDOWS + 1) * MINUTE_MS
    log = bed.preload(Shape(0, customers), topic)
    bed.produce(topic, _filling(customers, fill, base_ms))
    with bed.stores(topic) as stores:
        measured_run(bed, log, stores)
        bed.produce(topic, _newest(active, events, base_ms))
        measured, timing, started_at = measured_run(bed, log, stores)
    ended_at = started_at + timing.start_s + timing.seconds
    epochs = measured.calls["snapshot: source"] / (2 * PARTITIONS)  # two topics
    stalls_ms = np.array(measured.stalls_s) * 1000
    return Growth(
        bed.kind,
        customers * METERS * WINDOWS,
        active,
        events / (ended_at - measured.first_batch_at),
        timing.rss_mb,
        float(stalls_ms.mean()),
        float(stalls_ms.max()),
        {step: measured.wall_s[f"snapshot: {step}"] * 1000 / epochs for step in STATEFUL},
        measured.first_batch_at - started_at,
        before.until_now(),
    )


def _filling(customers: int, events: int, base_ms: int) -> Events:
    """Every cell at least once: each customer in each window with each event name."""
    random = np.random.default_rng(customers)
    number = np.arange(events, dtype=np.int64)
    window, name = number // customers % WINDOWS, number // customers // WINDOWS % len(NAMES)
    at_ms = base_ms + window * MINUTE_MS + random.integers(0, MINUTE_MS, events)
    zeros = np.zeros(events, np.int64)
    amounts = np.array([100, 1000, 10_000])
    return Events(
        number=number,
        customer=number % customers,
        at_ms=at_ms,
        name=name,
        amount=amounts[name] + random.integers(0, 100, events),
        model=zeros,  # the first of each passes the filters
        region=zeros,
        user=random.integers(0, 1000, events),
        duplicate=zeros.astype(np.bool_),
    )


def _newest(customers: int, events: int, base_ms: int) -> Events:
    """New events of the newest window, of the first so many customers."""
    minute_ms = base_ms + (WINDOWS - 1) * MINUTE_MS
    drawn = draw(Shape(events, customers, rate=max(1, events / 59)), minute_ms)
    return replace(drawn, number=drawn.number + 10**9)
