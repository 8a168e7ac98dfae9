"""CPU microseconds an event of the flow's process, by step: the next bottleneck is a line in a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.bed import Bed, Log, Stores
from benchmarks.events import Shape
from benchmarks.machine import Load, cores
from benchmarks.measured_flow import Measured
from benchmarks.processes import Timing, contestant
from benchmarks.verify import verify
from dataflows.embedded.processes import free_port

REST = "Bytewax, its recovery store, the rest"


@dataclass(frozen=True)
class Cost:
    """What the flow spent on a log, by step, in microseconds of CPU an event."""

    broker: str
    events: int
    rate: float
    by_step: dict[str, float]
    total: float
    collector: float
    """Of the total: Python's garbage collector."""
    verdict: str
    load: str


def measured_run(
    bed: Bed, log: Log, stores: Stores, arguments: Sequence[str] = ("--until-end",)
) -> tuple[Measured, Timing, float]:
    """One watched run on the first core: what it measured, its timing, when it started (Unix seconds)."""
    result = Path(stores.directory) / "measured.json"
    command = [sys.executable, "-m", "benchmarks.measured_flow", str(result), "run", *arguments]
    environment = bed.environment(log, stores) | {"METERLINE_METRICS_PORT": str(free_port())}
    with contestant([command], [environment], stores.directory, [cores()[:1]]) as running:
        timing = running.time(bed.engines(stores))
    return msgspec.json.decode(result.read_bytes(), type=Measured), timing, running.started_at


def cost(bed: Bed, shape: Shape) -> Cost:
    """Run over a log, with the watch on."""
    log, before = bed.preload(shape), Load.now()
    with bed.stores("cost") as stores:
        measured, timing, _ = measured_run(bed, log, stores)
        verdict = verify(stores.clickhouse.url, stores.redis.url, log.events, log.shape.customers)
    events = len(log.events)
    by_step = {step: cpu_s / events * 1e6 for step, cpu_s in measured.cpu_s.items()}
    total = measured.process_cpu_s / events * 1e6
    by_step[REST] = total - sum(by_step.values())
    return Cost(
        bed.kind,
        events,
        events / timing.seconds,
        by_step,
        total,
        measured.collector_cpu_s / events * 1e6,
        str(verdict),
        before.until_now(),
    )
