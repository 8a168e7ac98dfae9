"""Settings from a real environment: defaults, every problem at once, no secret in any text."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest

from dataflows.settings import (
    KAFKA_OPTIONS_OURS,
    PREFIX,
    Settings,
    SettingsError,
    safe_url,
    unknown_names,
)
from dataflows.settings_table import settings_markdown, settings_table

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in settings_table():
        monkeypatch.delenv(row.name, raising=False)


def problems_of(monkeypatch: pytest.MonkeyPatch, **environment: str) -> tuple[str, ...]:
    for name, value in environment.items():
        monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError) as raised:
        Settings.load()
    return raised.value.problems


def test_an_empty_environment_gives_the_defaults_of_meterline_up() -> None:
    settings = Settings.load()
    assert settings.kafka_brokers == "127.0.0.1:19092"
    assert settings.clickhouse_url == "http://meterline:meterline@127.0.0.1:18123/meterline"
    assert settings.redis_url == "redis://127.0.0.1:16379/0"
    assert (settings.shards, settings.epoch_s, settings.event_bytes_max) == (8, 2.0, 1 << 18)


def test_the_environment_wins_over_defaults_and_the_command_line_over_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("METERLINE_SHARDS", "8")
    monkeypatch.setenv("METERLINE_EPOCH_S", "0.25")
    monkeypatch.setenv("METERLINE_CATALOG", "/etc/meterline/catalog.yaml")
    monkeypatch.setenv("METERLINE_USAGE_TOPIC", "")
    settings = Settings.load(shards=4)
    assert settings.shards == 4
    assert settings.epoch_s == 0.25
    assert settings.catalog == Path("/etc/meterline/catalog.yaml")
    assert settings.usage_topic == "usage-events", "an empty variable is an unset one"


def test_kafka_options_are_librdkafka_s_own_and_reach_it_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"security.protocol": "SASL_SSL", "sasl.password": SECRET, "linger.ms": 5, "check.crcs": True}
    monkeypatch.setenv("METERLINE_KAFKA_OPTIONS", json.dumps(options))
    assert Settings.load().kafka_options == {
        "security.protocol": "SASL_SSL",
        "sasl.password": SECRET,
        "linger.ms": "5",
        "check.crcs": "true",
    }


@pytest.mark.parametrize("option", sorted(KAFKA_OPTIONS_OURS))
def test_an_option_that_would_break_exactness_is_refused(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    (problem,) = problems_of(monkeypatch, KAFKA_OPTIONS=json.dumps({option: "x"}))
    assert problem == f"METERLINE_KAFKA_OPTIONS=***: {option} is decided by {KAFKA_OPTIONS_OURS[option]}"


def test_every_problem_is_listed_at_once_with_its_variable_and_value(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = problems_of(
        monkeypatch, SHARD="8", SHARDS="0", EPOCH_S="nan", LOG_LEVEL="LOUD", KAFKA_BROKERS="a:9092,b"
    )
    assert [problem.partition(":")[0] for problem in problems] == [
        "METERLINE_SHARD is not a setting; did you mean METERLINE_SHARDS?",
        "METERLINE_KAFKA_BROKERS=a",
        "METERLINE_SHARDS=0",
        "METERLINE_EPOCH_S=nan",
        "METERLINE_LOG_LEVEL=LOUD",
    ]
    assert problems[1] == "METERLINE_KAFKA_BROKERS=a:9092,b: 'b' is not host:port"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SHARDS", "1000", "less than or equal to 999"),
        ("SHARDS", "2.5", "integer"),
        ("EPOCH_S", "0", "greater than 0"),
        ("DEAD_LETTER_RATIO_MAX", "1.01", "less than or equal to 1"),
        ("METRICS_PORT", "tcp://10.0.0.1:3030", "integer"),
        ("USAGE_TOPIC", "usage events", "match pattern"),
        ("ACCOUNT_TOPIC", "usage-events", "must differ"),
        ("CLICKHOUSE_URL", "clickhouse://h:9000", "must start with http:// or https://"),
        ("CLICKHOUSE_URL", "http://h:99999/", "not a URL"),
        ("REDIS_URL", "redis:///0", "names no host"),
        ("KAFKA_OPTIONS", "[1]", "not a JSON object"),
        ("KAFKA_OPTIONS", '{"a": null}', "a is not a string, a number or a boolean"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    (problem,) = problems_of(monkeypatch, **{name: value})
    assert says in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLICKHOUSE_URL", f"ftp://user:{SECRET}@host/db"),
        ("CLICKHOUSE_URL", f"http://user:p@{SECRET}@host:port/db"),
        ("CLICKHOUSE_URL", f"user:{SECRET}@host"),
        ("REDIS_URL", f"http://host/?password={SECRET}"),
        ("KAFKA_OPTIONS", f'{{"sasl.password": "{SECRET}"'),
        ("KAFKA_OPTIONS", f'{{"sasl.password": ["{SECRET}"]}}'),
    ],
)
def test_a_refused_secret_is_in_no_error_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError) as raised:
        Settings.load()
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    with pytest.raises(ValueError, match="validation error") as plain:
        Settings()
    assert SECRET not in "".join(traceback.format_exception(plain.value))


def test_an_accepted_secret_is_in_no_text_of_the_settings() -> None:
    settings = Settings.load(
        clickhouse_url=f"https://user:{SECRET}@host:8443/db",
        redis_url=f"redis://:{SECRET}@host:6379/0",
        kafka_options={"sasl.password": SECRET},
    )
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert SECRET not in text
        assert "host:8443" in text
    assert SECRET in settings.clickhouse_url
    assert settings.kafka_options["sasl.password"] == SECRET


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("http://host:8123/db", "http://host:8123/db"),
        ("http://user:pw@host:8123/db", "http://user:***@host:8123/db"),
        ("http://user:p@w/x:y@host/db", "http://user:***@host/db"),
        ("redis://:pw@host/0", "redis://:***@host/0"),
        ("redis://token@host/0", "redis://***@host/0"),
        ("redis://host/0?username=u&password=pw&x=1", "redis://host/0?username=u&password=***&x=1"),
        ("user:pw@host", "***"),
    ],
)
def test_a_safe_url_keeps_all_but_the_password(url: str, safe: str) -> None:
    assert safe_url(url) == safe


def test_an_unknown_name_is_refused_unless_kubernetes_made_it() -> None:
    kubernetes = {
        "METERLINE_SERVICE_HOST": "10.0.0.1",
        "METERLINE_SERVICE_PORT": "9092",
        "METERLINE_SERVICE_PORT_HTTP_METRICS": "9092",
        "METERLINE_PORT": "tcp://10.0.0.1:9092",
        "METERLINE_FLOW_PORT_9092_TCP_ADDR": "10.0.0.1",
    }
    assert unknown_names({**kubernetes, "PATH": "/bin", "METERLINE_EPOCH_S": "1"}) == []
    assert unknown_names({"METERLINE_PORT": "9092", "METERLINE_ZZZ": "1", "meterline_epochs": "1"}) == [
        "METERLINE_PORT is not a setting",
        "METERLINE_ZZZ is not a setting",
        "meterline_epochs is not a setting; did you mean METERLINE_EPOCH_S?",
    ]


def test_the_table_has_every_setting_with_its_default_and_a_meaning() -> None:
    rows = {row.name: row for row in settings_table()}
    assert set(rows) == {PREFIX + name.upper() for name in Settings.model_fields}
    assert all(row.meaning.endswith(".") for row in rows.values())
    assert rows["METERLINE_SHARDS"].default == "8"
    assert rows["METERLINE_SHARDS"].bounds == "≥ 1, ≤ 999"
    assert rows["METERLINE_LOG_LEVEL"].bounds == "DEBUG, INFO, WARNING, ERROR"
    assert rows["METERLINE_CLICKHOUSE_URL"].default == "http://meterline:***@127.0.0.1:18123/meterline"
    table = settings_markdown().splitlines()
    assert len(table) == len(rows) + 2
    assert {line.count("|") for line in table} == {5}


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().__setattr__("shards", 8)
