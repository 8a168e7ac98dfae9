"""Events a second: the flow on one core and on two, an idiomatic Bytewax flow, ClickHouse's Kafka engine.

All read the same preloaded topic (`bytewax` the first part of it, as a log of its own: it takes minutes for
what the others take seconds for), in turn, for some rounds, each with empty stores; what each stored is
compared with the truth in the same run. The best round of each counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import truth
from benchmarks.bed import Bed, Log
from benchmarks.catalog import API, LLM
from benchmarks.events import Shape
from benchmarks.machine import Load, cores, cpu_s, pin
from benchmarks.processes import ContestantError, contestant
from benchmarks.verify import verify
from dataflows.embedded.processes import free_port
from sinks.clickhouse import ClickHouseConfig

CHDB_PYTHON = Path(__file__).parent / ".venv-chdb" / "bin" / "python"
METERLINE = (sys.executable, "-m", "dataflows.cli", "run", "--until-end")
ONE, TWO = "Meterline, one process on one core", "Meterline, two processes on two cores"
BYTEWAX, ENGINE = "Bytewax per event, one core", "ClickHouse Kafka engine + view, two cores"
UNIQUES_ERROR = 0.02
"""Of an estimated distinct count."""


@dataclass(frozen=True)
class Result:
    """One contestant's run over one log. `engines_cpu_s`: of broker and stores, outside its processes."""

    contestant: str
    broker: str
    events: int
    seconds: float
    cpu_s: float
    engines_cpu_s: dict[str, float]
    rss_mb: float
    verdict: str
    load: str

    @property
    def rate(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU microseconds an event, which are seconds a million."""
        return self.cpu_s / self.events * 1e6


class Unavailable(Exception):  # noqa: N818 - a sentence why a contestant can't take part
    """A contestant can't run here; the text says why."""


def throughput(bed: Bed, shape: Shape, bytewax_events: int, rounds: int) -> tuple[list[Result], list[str]]:
    """The best round of each contestant, and why some did not take part."""
    runs: dict[str, Callable[[Bed, Shape], Result]] = {
        ONE: lambda b, s: meterline(b, s, processes=1),
        TWO: lambda b, s: meterline(b, s, processes=2),
        BYTEWAX: lambda b, s: bytewax(b, Shape(min(bytewax_events, s.events))),
        ENGINE: kafka_engine,
    }
    best: dict[str, Result] = {}
    notes: list[str] = []
    for _ in range(rounds):
        for name in list(runs):
            try:
                result = runs[name](bed, shape)
            except Unavailable as why:
                notes.append(f"{name}: not run against the {bed.kind} broker: {why}")
                del runs[name]
                continue
            print(f"{result.broker}: {name}: {result.rate:,.0f} events/s, {result.verdict}", flush=True)
            if name not in best or result.rate > best[name].rate:
                best[name] = result
    return list(best.values()), notes


def meterline(bed: Bed, shape: Shape, *, processes: int) -> Result:
    """`meterline run --until-end`, as many processes as cores."""
    log, before = bed.preload(shape), Load.now()
    with bed.stores("meterline") as stores:
        mine = cores()[:processes]
        engines = bed.engines(stores)
        if processes > 1:
            for pid in engines.values():
                pin(pid, cores())
        addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in mine)
        commands = [
            [*METERLINE, *(("--process-id", str(n), "--addresses", addresses) if processes > 1 else ())]
            for n in range(processes)
        ]
        settings = bed.environment(log, stores)
        environments = [settings | {"METERLINE_METRICS_PORT": str(free_port())} for _ in mine]
        with contestant(commands, environments, stores.directory, [[core] for core in mine]) as running:
            timing = running.time(engines)
        pin(bed.broker.pid, bed.engine_cores)
        verdict = verify(stores.clickhouse.url, stores.redis.url, log.events, log.shape.customers)
    return Result(
        ONE if processes == 1 else TWO,
        bed.kind,
        len(log.events),
        timing.seconds,
        timing.cpu_s,
        timing.engines_cpu_s,
        timing.rss_mb,
        str(verdict),
        before.until_now(),
    )


def bytewax(bed: Bed, shape: Shape) -> Result:
    """benchmarks/bytewax_flow.py on one core, as ours."""
    log, before = bed.preload(shape), Load.now()
    with bed.stores("bytewax") as stores:
        url = stores.clickhouse.url
        module = [sys.executable, "-m", "benchmarks.bytewax_flow"]
        command = [*module, bed.broker.address, log.topic, url, str(stores.directory / "recovery")]
        with contestant([command], [{}], stores.directory, [cores()[:1]]) as running:
            timing = running.time(bed.engines(stores))
        with closing(ClickHouseConfig(url=url).connect()) as client:
            query = (
                "SELECT meter_id, external_customer_id, toUnixTimestamp(window_start), events, total, uniques"
            )
            rows = client.query(f"{query} FROM bytewax_windows").result_rows
            raw = client.query("SELECT count() FROM bytewax_events").result_rows[0][0]
    found = {tuple(row[:3]): (row[3], row[4], row[5]) for row in rows}
    verdict = judge(log, found, len(rows)) + ("" if raw == len(log.events) else f"; {raw:,} raw rows")
    return Result(
        BYTEWAX,
        bed.kind,
        len(log.events),
        timing.seconds,
        timing.cpu_s,
        timing.engines_cpu_s,
        timing.rss_mb,
        verdict,
        before.until_now(),
    )


def kafka_engine(bed: Bed, shape: Shape) -> Result:
    """benchmarks/kafka_engine.py: it is its own store, so that it has both cores."""
    if bed.kind == "embedded":
        raise Unavailable("it joins a consumer group, which the embedded broker does not have")
    if not CHDB_PYTHON.exists():
        raise Unavailable("chdb 3.7.2 is not in benchmarks/.venv-chdb; `make bench` installs it")
    log, before = bed.preload(shape), Load.now()
    with bed.stores("kafka-engine") as stores:
        pin(bed.broker.pid, cores())
        script = str(Path(__file__).with_name("kafka_engine.py"))
        command = [str(CHDB_PYTHON), script, bed.broker.address, log.topic, str(len(log.events))]
        broker_before = cpu_s(bed.broker.pid)
        ran = subprocess.run(  # noqa: S603 - the command is ours
            [*command, str(stores.directory)], capture_output=True, text=True, check=False
        )
        broker_cpu_s = cpu_s(bed.broker.pid) - broker_before
        pin(bed.broker.pid, bed.engine_cores)
        if ran.returncode:
            raise ContestantError(ran.stderr[-3000:])
        took = json.loads(ran.stdout.splitlines()[-1])
        lines = (stores.directory / "usage.json").read_text().splitlines()
    verdict = judge(log, _by_meter([json.loads(line) for line in lines]), 0)
    return Result(
        ENGINE,
        bed.kind,
        int(took["events"]),
        took["seconds"],
        took["cpu_s"],
        {"Kafka": broker_cpu_s},
        took["rss_mb"],
        verdict,
        before.until_now(),
    )


Found = dict[tuple[Any, ...], tuple[int, float, int]]
"""meter, customer, window start -> events, total, uniques"""


def judge(log: Log, found: Found, rows: int) -> str:
    """What a baseline's windows are: right, right but for repeats, or neither."""
    right, repeated = truth.windows(log.events), truth.windows_with_repeats(log.events)
    wrong = _differing(found, right)
    repeats = int(log.events.duplicate.sum())
    twice = f"; {rows - len(found):,} windows sent twice" if rows > len(found) else ""
    if not wrong:
        return f"{len(right):,} windows right{twice}"
    if not _differing(found, repeated):
        return f"{wrong:,} of {len(right):,} windows wrong: {repeats:,} repeats counted twice{twice}"
    differing = _differing(found, repeated)
    return f"{wrong:,} of {len(right):,} windows wrong, {differing:,} not only by repeats{twice}"


def _differing(found: Found, cells: truth.Cells) -> int:
    differing = len(found.keys() ^ cells.keys())
    for key in found.keys() & cells.keys():
        (events, total, uniques), cell = found[key], cells[key]
        off = abs(uniques - cell.uniques)
        is_same = events == cell.events and round(total, 4) == float(cell.total)
        is_same &= off == 0 if cell.uniques <= truth.EXACT_UNIQUES else off <= UNIQUES_ERROR * cell.uniques
        differing += not is_same
    return differing


def _by_meter(rows: list[list[Any]]) -> Found:
    """Rows of the one view, which has all meters side by side, as windows."""
    found: Found = {}
    for name, customer, start, events, summed, tokens, latency_ms, gb_hours, users in rows:
        if name == API:
            found["api-requests", customer, start] = (int(events), 0.0, 0)
            found["api-latency", customer, start] = (int(events), latency_ms, 0)
        elif name == LLM:
            found["active-users", customer, start] = (int(events), 0.0, int(users))
            if int(summed):
                found["llm-tokens", customer, start] = (int(summed), float(tokens), 0)
        else:
            found["storage", customer, start] = (int(events), gb_hours, 0)
    return found
