"""`meterline demo`: the whole pipeline on this machine, and a self-check that can fail.

engines -> tables, topics -> `meterline run` as a process -> a workload produced live -> drain by SIGTERM ->
ClickHouse and Redis compared with the generator's own truth, to the last digit.
State: a directory, gone at the end unless it is to be kept; one kept goes on with `meterline up --dir`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dataflows.demo_check import Check, check_stores
from dataflows.demo_producer import LiveProducer
from dataflows.demo_view import Status, Watch, seconds, view
from dataflows.embedded import Engines, engines
from dataflows.embedded.processes import free_port
from dataflows.exits import FailureError, UserError
from dataflows.flow_process import FlowProcess
from dataflows.reports import print_json, print_table
from dataflows.stores import clickhouse, redis
from dataflows.up import engine_environment, held_directory, prepare
from dataflows.workload import Kind
from dataflows.workload_catalog import workload_catalog

LOOK_INTERVAL_S = 0.5
START_TIMEOUT_S = 60.0
CATCH_UP_TIMEOUT_S = 120.0
DRAIN_TIMEOUT_S = 60.0
DIFFERENCES_SHOWN = 20


@dataclass(frozen=True)
class DemoOptions:
    """How long, how fast, and where."""

    seconds: float = 30
    rate: float = 5000
    keep: Path | None = None


@dataclass(frozen=True)
class Result:
    """What the demo found."""

    producer: LiveProducer
    status: Status
    caught_up_s: float
    """From the last event produced until the flow had committed all."""
    checks: list[Check]

    @property
    def ok(self) -> bool:
        return not any(check.differences for check in self.checks)


def demo(
    options: DemoOptions, *, as_json: bool = False, before_check: Callable[[Engines], None] | None = None
) -> bool:
    """Run it and print what it found; whether everything is equal.

    `before_check` is called when the flow has ended, with the engines still there.
    """
    with _directory(options.keep) as directory:
        result = run_demo(directory, options, before_check)
    _print_json(result, options) if as_json else _print(result, options)
    return result.ok


def run_demo(
    directory: Path, options: DemoOptions, before_check: Callable[[Engines], None] | None = None
) -> Result:
    """Run it in a directory, which must be empty."""
    catalog = directory / "catalog.yaml"
    catalog.write_text(workload_catalog())
    with view() as shown, held_directory(directory):
        shown.note("starting Kafka, ClickHouse and Redis")
        with engines(directory) as running:
            settings = prepare(running, catalog)
            environment = engine_environment(running, directory, catalog)
            environment["METERLINE_METRICS_PORT"] = str(free_port())
            flow = FlowProcess(environment, directory / "flow.log")
            producer = LiveProducer(settings, seconds=options.seconds, rate=options.rate)
            with clickhouse(settings.clickhouse_url) as tables, redis(settings.redis_url) as wallets:
                watch = Watch(tables, wallets)
                try:
                    flow.start()
                    _await_metrics(flow)
                    producer.start()
                    while producer.running:
                        shown.show(watch.look(flow.metrics(), producer.records))
                        time.sleep(LOOK_INTERVAL_S)
                    stopped_at = time.monotonic()
                    if producer.error:
                        raise FailureError(producer.error)
                    flow.wait_until_read(producer.records, CATCH_UP_TIMEOUT_S)
                    status = watch.look(flow.metrics(), producer.records)
                    shown.note("produced all; draining the flow by SIGTERM")
                    flow.drain(DRAIN_TIMEOUT_S)
                    caught_up_s = time.monotonic() - stopped_at
                finally:
                    producer.stop()
                    flow.kill()
                if before_check is not None:
                    before_check(running)
                checks = check_stores(producer.truth, tables, wallets)
    return Result(producer, status, caught_up_s, checks)


def _await_metrics(flow: FlowProcess) -> None:
    """Wait until the flow reads, so that what is measured is its pace and not its start."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not flow.metrics().by_label("meterline_source_records_total", "partition"):
        if time.monotonic() > deadline:
            raise FailureError(f"the flow has not begun to read after {START_TIMEOUT_S:g} s")
        time.sleep(LOOK_INTERVAL_S)


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise UserError(f"{keep} is not empty: --keep takes a new directory, or an empty one")
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    directory = Path(tempfile.mkdtemp(prefix="meterline-demo-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _print(result: Result, options: DemoOptions) -> None:
    truth, status = result.producer.truth, result.status
    kinds = ", ".join(f"{truth.kinds[kind]:,} {kind}" for kind in Kind)
    print(f"produced {result.producer.events:,} usage events: {kinds}")
    print(f"produced {result.producer.account_events:,} account events")
    print(
        f"freshness of wallets: p50 {seconds(status.freshness_p50_s)}, p99 {seconds(status.freshness_p99_s)};"
        f" all committed {result.caught_up_s:.1f} s after the last event"
    )
    rows = [(check.name, f"{check.compared:,}", len(check.differences) or "equal") for check in result.checks]
    print_table(None, {"store": "left", "compared with the truth": "right", "differences": "right"}, rows)
    differences = [f"{check.name}: {line}" for check in result.checks for line in check.differences]
    for line in differences[:DIFFERENCES_SHOWN]:
        print(line)
    if len(differences) > DIFFERENCES_SHOWN:
        print(f"and {len(differences) - DIFFERENCES_SHOWN} more")
    print("SELF-CHECK PASSED" if result.ok else "SELF-CHECK FAILED")
    if options.keep is not None:
        print(f"look around: meterline up --dir {options.keep}", file=sys.stderr)


def _print_json(result: Result, options: DemoOptions) -> None:
    truth, status = result.producer.truth, result.status
    print_json(
        {
            "ok": result.ok,
            "seconds": options.seconds,
            "rate": options.rate,
            "usage_events": result.producer.events,
            "account_events": result.producer.account_events,
            "acknowledged": result.producer.acknowledged,
            "kinds": {str(kind): truth.kinds[kind] for kind in Kind},
            "dead_letters": {str(reason): count for reason, count in sorted(truth.reasons.items())},
            "freshness_p50_s": status.freshness_p50_s,
            "freshness_p99_s": status.freshness_p99_s,
            "caught_up_s": round(result.caught_up_s, 3),
            "checks": [
                {"store": check.name, "compared": check.compared, "differences": check.differences}
                for check in result.checks
            ],
        }
    )
