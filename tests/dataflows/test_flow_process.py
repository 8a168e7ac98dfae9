"""What is read off /metrics, against prometheus_client's own page; a flow that ends is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from dataflows.embedded.processes import free_port
from dataflows.exits import FailureError
from dataflows.flow_process import FlowProcess, Metrics

BOUNDS = (0.1, 0.2, 0.5, 1.0)


def page(values: list[float]) -> Metrics:
    registry = CollectorRegistry()
    letters = Counter("meterline_letters", "", ["reason", "sink"], registry=registry)
    waits = Histogram("meterline_wait_seconds", "", buckets=BOUNDS, registry=registry)
    letters.labels("late", "a").inc(2)
    letters.labels("late", "b").inc(3)
    letters.labels("bad", "a").inc(5)
    for value in values:
        waits.observe(value)
    return Metrics(generate_latest(registry).decode())


def test_counters_are_added_up_by_label() -> None:
    metrics = page([])
    assert metrics.total("meterline_letters_total") == 10
    assert metrics.total("meterline_letters_total", 'sink="a"') == 7
    assert metrics.by_label("meterline_letters_total", "reason") == {"late": 5, "bad": 5}
    assert metrics.total("meterline_unknown") == 0
    assert Metrics().total("meterline_letters_total") == 0


def test_a_quantile_of_nothing_is_none() -> None:
    assert page([]).quantile("meterline_wait_seconds", 0.5) is None


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_in_the_bucket_of_the_true_one(values: list[float], part: float) -> None:
    found = page(values).quantile("meterline_wait_seconds", part)
    true = sorted(values)[max(0, -int(-part * len(values) // 1) - 1)]
    bucket = next(number for number, bound in enumerate(BOUNDS) if true <= bound)
    assert found is not None
    assert ((0.0, *BOUNDS)[bucket]) <= found <= BOUNDS[bucket]


def test_a_quantile_past_the_last_bound_is_that_bound() -> None:
    assert page([5.0, 7.0]).quantile("meterline_wait_seconds", 0.5) == BOUNDS[-1]


def flow(tmp_path: Path, **settings: str) -> FlowProcess:
    environment = {"METERLINE_METRICS_PORT": str(free_port()), **settings}
    return FlowProcess(environment, tmp_path / "flow.log")


def test_a_flow_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    ended = flow(tmp_path, METERLINE_CATALOG=str(tmp_path / "missing.yaml"))
    ended.start()
    with pytest.raises(FailureError, match=r"the flow ended:\n.*missing\.yaml: No such file"):
        ended.wait_until_read(1, 30)
    ended.kill()


STARTER = """
import sys, time
from pathlib import Path
from dataflows.flow_process import FlowProcess
flow = FlowProcess({"METERLINE_METRICS_PORT": "1"}, Path(sys.argv[1]), ["--help"])
import dataflows.flow_process as module
module.RUN = (sys.executable, "-c", "import time; time.sleep(60)")
flow.start()
print(flow._process.pid, flush=True)
time.sleep(60)
"""


def test_a_flow_ends_with_a_starter_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        starter.kill()
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
