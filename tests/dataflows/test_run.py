"""`meterline run` on real engines: what it wants first, how it drains, and that one store has one flow."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from dataflows.embedded import Engines
from dataflows.embedded.processes import free_port
from tests.dataflows.commands import EVENTS, Settings, environment, meterline, running, wait_for


def test_run_wants_tables_and_topics_first(fresh: Settings) -> None:
    ran = meterline(fresh, "run", "--until-end")
    assert (ran.code, "run `meterline migrate`" in ran.err) == (1, True)
    ran = meterline(fresh, "run", "--until-end", "--migrate")
    assert (ran.code, "`meterline topics`" in ran.err) == (1, True)
    assert f"no topic {fresh['METERLINE_USAGE_TOPIC']}" in ran.err


def test_run_refuses_a_taken_metrics_port(ready: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", int(ready["METERLINE_METRICS_PORT"])))
        taken.listen()
        ran = meterline(ready, "run", "--until-end")
    assert ran.code == 1
    assert "Set METERLINE_METRICS_PORT to a free one" in ran.err


def test_sigterm_drains_and_a_second_runner_is_refused(ready: Settings, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    with running(ready, log, "run") as flow:
        wait_for(log, "is read from", flow, times=8)
        assert meterline(ready, "produce", "-", stdin=EVENTS).code == 0
        other_port = {"METERLINE_METRICS_PORT": str(free_port())}
        refused = meterline({**ready, **other_port}, "run")
        assert refused.code == 1
        assert f"with pid {flow.pid}" in refused.err
        flow.send_signal(signal.SIGTERM)
        assert flow.wait(30) == 0, log.read_text()
    assert log.read_text().rstrip().endswith("drained")
    assert meterline(ready, "run", "--until-end").code == 0
    shown = json.loads(meterline(ready, "wallet", "acme", "bob", "--json").out)
    assert [wallet["usage"] for wallet in shown] == ["0.5"]


def test_what_a_step_raises_is_one_sentence_too(ready: Settings, engines: Engines) -> None:
    """Bytewax wraps it twice; here the topic is another one than the recovery store has read."""
    assert meterline(ready, "produce", "-", stdin=EVENTS).code == 0
    assert meterline(ready, "run", "--until-end").code == 0
    admin = AdminClient({"bootstrap.servers": engines.kafka_brokers})
    admin.delete_topics([ready["METERLINE_USAGE_TOPIC"]])[ready["METERLINE_USAGE_TOPIC"]].result(10)
    assert meterline(ready, "topics").code == 0
    ran = meterline(ready, "run", "--until-end")
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("meterline: ")
    assert "start with an empty METERLINE_RECOVERY_DIR" in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


def test_bytewax_run_drains_too(ready: Settings, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    command = [sys.executable, "-m", "bytewax.run", "dataflows.metering:flow()"]
    with (
        log.open("w") as out,
        subprocess.Popen(command, env=environment(ready), stdout=out, stderr=out) as flow,
    ):
        group = [
            "usage",
            "--tenant=acme",
            "--meter=calls",
            "--since=2020-01-01",
            "--until=2100-01-01",
            "--json",
        ]
        assert meterline(ready, "produce", "-", stdin=EVENTS).code == 0
        while not json.loads(meterline(ready, *group).out)["rows"]:
            assert flow.poll() is None, log.read_text()
        flow.send_signal(signal.SIGTERM)
        assert flow.wait(30) == 0, log.read_text()


def test_two_processes_meter_together(ready: Settings, tmp_path: Path) -> None:
    addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in range(2))
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    ports = [{"METERLINE_METRICS_PORT": str(free_port())} for _ in logs]
    arguments = ["--addresses", addresses, "--process-id"]
    with (
        running({**ready, **ports[0]}, logs[0], "run", *arguments, "0") as first,
        running({**ready, **ports[1]}, logs[1], "run", *arguments, "1") as second,
    ):
        for log, flow in zip(logs, (first, second), strict=True):
            wait_for(log, "is read from", flow)
        assert meterline(ready, "produce", "-", stdin=EVENTS).code == 0
        wait_until_metered(ready, "57.5")
        for flow in (first, second):
            flow.send_signal(signal.SIGTERM)
        assert [flow.wait(30) for flow in (first, second)] == [0, 0], [log.read_text() for log in logs]


def wait_until_metered(settings: Settings, total: str) -> None:
    asked = ["usage", "--tenant=acme", "--meter=tokens", "--since=2020-01-01", "--until=2100-01-01", "--json"]
    for _ in range(60):
        if json.loads(meterline(settings, *asked).out)["total"]["total"] == total:
            return
    pytest.fail(f"{asked} never came to {total}")
