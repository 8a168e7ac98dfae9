"""The commands: what they print, what they do to real engines, and how they refuse."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]
from typer.testing import CliRunner

from dataflows.cli import app
from dataflows.embedded import EngineProcess, Engines
from tests.dataflows.commands import CATALOG, EVENTS, Settings, meterline, running, wait_for

BROKEN_CATALOG = CATALOG.replace("COUNT", "COUNTS").replace("meter: tokens", "meter: token")


def test_help_waits_for_no_engine() -> None:
    heavy = "{'bytewax', 'pyarrow', 'numpy', 'pydantic', 'confluent_kafka', 'clickhouse_connect', 'redis'}"
    program = f"import sys, dataflows.cli; print(*sorted({heavy} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_each_command_has_an_example() -> None:
    groups = [((), app), *(((group.name,), group.typer_instance) for group in app.registered_groups)]
    names = [
        (*(part for part in prefix if part), (command.name or command.callback.__name__).replace("_", "-"))
        for prefix, group in groups
        if group is not None
        for command in group.registered_commands
        if command.callback is not None
    ]
    assert len(names) == 15
    for name in names:
        shown = CliRunner().invoke(app, [*name, "--help"])
        assert shown.exit_code == 0
        assert f"meterline {' '.join(name)}" in " ".join(shown.output.split()), name


def test_check_lists_every_error_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text(BROKEN_CATALOG)
    ran = meterline({}, "check", str(file))
    assert ran.code == 2
    assert "meters[0].aggregation.type" in ran.out
    assert "plans[0].charges[0].meter" in ran.out
    problems = json.loads(meterline({}, "check", str(file), "--json").out)["problems"]
    assert [problem["path"] for problem in problems] == [
        "meters[0].aggregation.type",
        "plans[0].charges[0].meter",
    ]
    file.write_text(CATALOG)
    assert meterline({}, "check", str(file)).code == 0


@pytest.mark.parametrize(
    ("changes", "arguments", "code", "sentence"),
    [
        ({"METERLINE_EPOCHS": "1"}, ["settings"], 2, "did you mean METERLINE_EPOCH_S?"),
        ({}, ["check", "missing.yaml"], 2, "missing.yaml: No such file"),
        ({"METERLINE_CATALOG": "missing.yaml"}, ["run"], 2, "missing.yaml: No such file"),
        ({}, ["run", "--process-id", "1"], 2, "--process-id 1 has no address"),
        (
            {"METERLINE_KAFKA_BROKERS": "127.0.0.1:1"},
            ["topics"],
            1,
            "no Kafka broker at 127.0.0.1:1 answered",
        ),
        (
            {"METERLINE_CLICKHOUSE_URL": "http://u:p@127.0.0.1:1/m"},
            ["migrate"],
            1,
            "http://u:***@127.0.0.1:1/m",
        ),
        (
            {"METERLINE_REDIS_URL": "redis://127.0.0.1:1"},
            ["wallet", "a", "b"],
            1,
            "Redis at redis://127.0.0.1:1",
        ),
        (
            {},
            ["usage", "--tenant=a", "--meter=m", "--since=2026-11-01", "--until=2026-10-01"],
            2,
            "is not before",
        ),
        (
            {},
            ["usage", "--tenant=a", "--meter=m", "--since=x", "--until=2026-10-01"],
            2,
            "--since x: not a date",
        ),
        ({}, ["recovery", "inspect", "."], 1, "has no recovery store"),
        ({}, ["run", "--workers", "2"], 2, "No such option"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    changes: Settings, arguments: list[str], code: int, sentence: str
) -> None:
    ran = meterline({"METERLINE_KAFKA_TIMEOUT_S": "1", **changes}, *arguments)
    assert ran.code == code
    assert sentence in ran.err
    assert "Traceback" not in ran.err


def test_settings_shows_values_and_masks_secrets() -> None:
    given = {"METERLINE_EPOCH_S": "7", "METERLINE_REDIS_URL": "redis://:hidden@host:1/0"}
    ran = meterline(given, "settings", "--json")
    shown = json.loads(ran.out)
    assert (shown["METERLINE_EPOCH_S"], shown["METERLINE_REDIS_URL"]) == (7, "redis://:***@host:1/0")
    assert "hidden" not in meterline(given, "settings").out


def test_topics_are_made_once_with_append_time(tmp_path: Path) -> None:
    """On a broker whose own default is CreateTime, as Apache Kafka's is."""

    def command(port: int) -> list[str]:
        broker = [sys.executable, "-m", "dataflows.embedded.kafka", "--directory", str(tmp_path)]
        return [*broker, "--port", str(port), "--message-timestamp-type", "CreateTime"]

    with EngineProcess("kafka", tmp_path, 0, command) as broker:
        at = {"METERLINE_KAFKA_BROKERS": broker.address}
        made = json.loads(meterline(at, "topics", "--partitions", "3", "--json").out)
        assert [(topic["partitions"], topic["created"]) for topic in made] == [(3, True)] * 4
        again = json.loads(meterline(at, "topics", "--json").out)
        assert [(topic["partitions"], topic["created"]) for topic in again] == [(3, False)] * 4
        admin = AdminClient({"bootstrap.servers": broker.address})
        for name in ("usage-events", "account-events"):
            asked = ConfigResource(ConfigResource.Type.TOPIC, name)
            config = admin.describe_configs([asked])[asked].result(10)
            assert config["message.timestamp.type"].value == "LogAppendTime"


def test_migrate_tells_then_does_then_has_nothing_to_do(fresh: Settings) -> None:
    pending = json.loads(meterline(fresh, "migrate", "--dry-run", "--json").out)["pending"]
    assert "sql/views/usage.sql" in pending
    assert json.loads(meterline(fresh, "migrate", "--json").out)["applied"] == pending
    assert "nothing to apply" in meterline(fresh, "migrate").out


def test_events_are_produced_metered_and_shown(ready: Settings) -> None:
    produced = json.loads(meterline(ready, "produce", "-", "--json", stdin=EVENTS).out)
    assert (produced["sent"], produced["acknowledged"]) == (4, 4)
    ran = meterline(ready, "run", "--until-end")
    assert ran.code == 0, ran.err
    asked = ["usage", "--tenant=acme", "--meter=tokens", "--since=2020-01-01", "--until=2100-01-01"]
    shown = json.loads(meterline(ready, *asked, "--step=1d", "--json").out)
    assert [(row["external_customer_id"], row["total"]) for row in shown["rows"]] == [
        ("bob", "50"),
        ("eve", "7.5"),
    ]
    assert (shown["total"]["events"], shown["total"]["total"], shown["total"]["average"]) == (
        2,
        "57.5",
        "28.75",
    )
    assert "57.5" in meterline(ready, *asked).out
    one = json.loads(meterline(ready, *asked, "--customer=eve", "--json").out)
    assert (len(one["rows"]), one["total"]["total"]) == (1, "7.5")
    [wallet] = json.loads(meterline(ready, "wallet", "acme", "bob", "--json").out)
    assert (wallet["usage"], wallet["available"], wallet["currency"]) == ("0.5", "-0.5", "USD")
    assert "-0.5" in meterline(ready, "wallet", "acme", "bob").out
    assert meterline(ready, "wallet", "acme", "nobody").code == 1
    report = json.loads(
        meterline(ready, "recovery", "inspect", ready["METERLINE_RECOVERY_DIR"], "--json").out
    )
    offsets = [each for each in report["offsets"] if each["topic"] == ready["METERLINE_USAGE_TOPIC"]]
    assert (len(offsets), sum(each["next_offset"] for each in offsets)) == (4, 4)


def test_wallet_watch_prints_each_change(ready: Settings, tmp_path: Path, engines: Engines) -> None:
    log = tmp_path / "watch.log"
    with running(ready, log, "wallet", "acme", "eve", "--watch", "--json") as watching:
        wait_for(log, "[", watching)
        with redis.Redis.from_url(engines.redis_url) as client:
            while client.pubsub_numsub("wallet-deltas:acme")[0][1] == 0:
                assert watching.poll() is None, log.read_text()
        assert meterline(ready, "produce", "-", stdin=EVENTS).code == 0
        assert meterline(ready, "run", "--until-end").code == 0
        wait_for(log, "available", watching)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 130
    changes = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    assert [(change["external_customer_id"], change["available"]) for change in changes] == [("eve", "-0.08")]


def test_produce_counts_what_the_broker_did_not_take(ready: Settings) -> None:
    huge = json.dumps({"id": "e3", "event_name": "call", "customer_id": "bob", "source": "x" * 2_000_000})
    ran = meterline(ready, "produce", "-", "--json", stdin=f"{huge}\n{EVENTS}")
    report = json.loads(ran.out)
    assert (ran.code, report["sent"], report["acknowledged"]) == (1, 5, 4)
    assert sum(report["errors"].values()) == 1


def test_up_prints_settings_that_reach_its_engines(tmp_path: Path) -> None:
    directory = tmp_path / "up"
    command = ["up", "--dir", str(directory), "--port-kafka=0", "--port-clickhouse=0", "--port-redis=0"]
    log = tmp_path / "up.log"
    with running({}, log, *command) as up:
        wait_for(log, "ready;", up)
        lines = (directory / "env").read_text().splitlines()
        reached = {name: shlex.split(value)[0] for name, _, value in (line.partition("=") for line in lines)}
        assert all(line in log.read_text() for line in lines)
        assert "nothing to apply" in meterline(reached, "migrate").out
        assert meterline(reached, "check", reached["METERLINE_CATALOG"]).code == 0
        refused = meterline({}, *command)
        assert (refused.code, "engines run in" in refused.err) == (1, True)
        up.send_signal(signal.SIGTERM)
        assert up.wait(30) == 0
    host, _, port = reached["METERLINE_KAFKA_BROKERS"].partition(":")
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) != 0


def test_up_refuses_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = meterline(
            {}, "up", "--dir", str(tmp_path / "up"), "--port-kafka=0", f"--port-clickhouse={port}"
        )
    assert ran.code == 1
    assert f"port {port} can't be opened" in ran.err
    assert "--port-clickhouse" in ran.err
