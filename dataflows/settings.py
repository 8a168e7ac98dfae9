"""Every setting of Meterline: one environment variable each, with a default that suits `meterline up`.

`METERLINE_*` -> `Settings`, frozen, or `SettingsError` with every problem at once. A name that starts with
`METERLINE_` and is not in the table is a problem too: a misspelt limit must not go unnoticed.
Secrets are plain attributes, and masked in everything that prints: `repr`, dumps, errors.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "METERLINE_"
MASK = "***"
KAFKA_PORT, CLICKHOUSE_PORT, REDIS_PORT = 19092, 18123, 16379
"""Where `meterline up` listens: each engine's usual port, out of the way of an engine that is there."""

KAFKA_OPTIONS_OURS = {
    "bootstrap.servers": "METERLINE_KAFKA_BROKERS",
    "metadata.broker.list": "METERLINE_KAFKA_BROKERS",
    "group.id": "METERLINE_KAFKA_GROUP",
    "enable.auto.commit": "the recovery store, which holds the offsets",
    "enable.auto.offset.store": "the recovery store, which holds the offsets",
    "auto.offset.reset": "the source, which never skips silently",
}
"""librdkafka options that would break exactness, and what decides them instead."""

_SERVICE_LINK = re.compile(
    r"_SERVICE_HOST=|_SERVICE_PORT(_\w+)?=\d+$|_PORT(=|_\d+_)(tcp|udp|sctp)", re.IGNORECASE
)
_SECRET_PARAMETER = re.compile(r"(?i)([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*")
_TOPIC = r"^[a-zA-Z0-9._-]{1,249}$"

Topic = Annotated[str, Field(pattern=_TOPIC)]
Milliseconds = Annotated[int, Field(ge=1, le=600_000)]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class Settings(BaseSettings):
    """How one process of the flow runs; `Settings.load()` is the way to get one from the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    kafka_brokers: str = Field(
        f"127.0.0.1:{KAFKA_PORT}", description="Kafka brokers, `host:port`, by commas."
    )
    usage_topic: Topic = Field("usage-events", description="Topic of usage events.")
    account_topic: Topic = Field("account-events", description="Topic of account events.")
    dead_letter_topic: Topic = Field("dead-letters", description="Topic that dead letters are written to.")
    alert_topic: Topic = Field("wallet-alerts", description="Topic that wallet alerts are written to.")
    kafka_group: str = Field(
        "meterline",
        min_length=1,
        description="Group whose offsets are committed for lag tools; never read back.",
    )
    kafka_options: Annotated[dict[str, str], NoDecode] = Field(
        {}, description="librdkafka options (TLS, SASL) for every client, as a JSON object. Secret."
    )
    kafka_timeout_s: Seconds = Field(
        30, description="A broker is waited for this long, then the process exits."
    )
    poll_messages_max: int = Field(
        8_000, ge=500, le=100_000, description="Messages of one batch: what a backlog is read in."
    )
    poll_interval_ms: int = Field(
        40, ge=1, le=250, description="How often a partition that is up to date is polled."
    )

    clickhouse_url: str = Field(
        f"http://meterline:meterline@127.0.0.1:{CLICKHOUSE_PORT}/meterline",
        description="ClickHouse over HTTP(S), with user, password and database. Secret.",
    )
    clickhouse_timeout_s: Seconds = Field(30, description="One request to ClickHouse is given up after this.")
    clickhouse_retry_s: Seconds = Field(
        60, description="A failing insert is retried this long, then the process exits."
    )
    clickhouse_insert_rows_max: int = Field(
        100_000,
        ge=1,
        le=10_000_000,
        description="Rows of one insert; a table's buffer is sent when it has them.",
    )
    clickhouse_insert_interval_ms: Milliseconds = Field(
        200, description="Least time between two inserts into a table."
    )

    redis_url: str = Field(
        f"redis://127.0.0.1:{REDIS_PORT}/0", description="Redis of the wallets, with its password. Secret."
    )
    redis_timeout_s: Seconds = Field(2, description="One request to Redis is given up after this.")
    redis_drain_s: Seconds = Field(
        5, description="The end of the flow waits this long for Redis; the rest is kept as state."
    )

    catalog: Path = Field(Path("catalog.yaml"), description="The YAML file of meters and plans.")
    recovery_dir: Path = Field(
        Path(".meterline/recovery"), description="Directory of the recovery store: offsets and state."
    )
    shards: int = Field(
        8,
        ge=1,
        le=999,
        description="Shards of customers, and processes at most. Fixed when the recovery store is created.",
    )
    epoch_s: Seconds = Field(2, description="Time between commits, and what a crash repeats.")

    event_bytes_max: int = Field(
        262_144, ge=256, le=16_777_216, description="A longer payload is a dead letter, `too_large`."
    )
    event_ahead_max_s: int = Field(
        300, ge=0, le=86_400, description="A timestamp further after its record's is a dead letter."
    )
    event_age_max_d: int = Field(
        35, ge=1, le=3650, description="A timestamp further before its record's is a dead letter."
    )
    dedupe_horizon_s: int = Field(
        600, ge=0, le=86_400, description="A repeated id is dropped this long after the first."
    )
    dedupe_ids_max: int = Field(
        500_000,
        ge=1,
        le=100_000_000,
        description="Ids remembered a shard; past it the oldest are forgotten.",
    )
    window_flush_ms: Milliseconds = Field(1000, description="How often changed windows go to ClickHouse.")
    charge_flush_ms: Milliseconds = Field(
        2000, description="How often changed charges go to ClickHouse; they wait for an epoch's end before."
    )
    wallet_flush_ms: Milliseconds = Field(50, description="How often changed wallets go to Redis.")
    dead_letter_ratio_max: float = Field(
        0.5,
        ge=0,
        le=1,
        description="The flow stops when more of the last records than this are dead letters.",
    )
    dead_letter_ratio_records: int = Field(
        10_000,
        ge=1,
        le=100_000_000,
        description="The last records that `DEAD_LETTER_RATIO_MAX` is taken over.",
    )

    metrics_port: int = Field(
        3030, ge=1, le=65_535, description="Port of Prometheus `/metrics`, a worker process."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severity that is logged."
    )

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Settings of this process's environment; `overrides` (from the command line) win over it.

        Raises `SettingsError` with every problem: bad values and unknown names together.
        """
        problems = unknown_names(os.environ)
        try:
            settings = cls(**overrides)
        except ValidationError as error:
            raise SettingsError([*problems, *_problems(error)]) from None
        if problems:
            raise SettingsError(problems)
        return settings

    @field_validator("kafka_brokers")
    @classmethod
    def _brokers_have_ports(cls, value: str) -> str:
        for broker in value.split(","):
            host, _, port = broker.strip().rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
                raise ValueError(f"{broker.strip()!r} is not host:port")
        return value

    @field_validator("kafka_options", mode="before")
    @classmethod
    def _options_are_an_object(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise ValueError('not JSON; write it as {"security.protocol": "SSL"}') from None
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")  # pydantic would not list a TypeError
        for name, option in value.items():
            if name in KAFKA_OPTIONS_OURS:
                raise ValueError(f"{name} is decided by {KAFKA_OPTIONS_OURS[name]}")
            if not isinstance(option, str | int | float):
                raise ValueError(f"{name} is not a string, a number or a boolean")
        return {
            name: option if isinstance(option, str) else json.dumps(option) for name, option in value.items()
        }

    @field_validator("clickhouse_url")
    @classmethod
    def _clickhouse_speaks_http(cls, value: str) -> str:
        return _url(value, ("http", "https"))

    @field_validator("redis_url")
    @classmethod
    def _redis_speaks_redis(cls, value: str) -> str:
        return _url(value, ("redis", "rediss", "unix"))

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        topics = (self.usage_topic, self.account_topic, self.dead_letter_topic, self.alert_topic)
        if len(set(topics)) < len(topics):
            raise ValueError("USAGE_TOPIC, ACCOUNT_TOPIC, DEAD_LETTER_TOPIC and ALERT_TOPIC must differ")
        return self

    @field_serializer("clickhouse_url", "redis_url")
    def _dump_url(self, value: str) -> str:
        return safe_url(value)

    @field_serializer("kafka_options")
    def _dump_options(self, value: dict[str, str]) -> dict[str, str]:
        return dict.fromkeys(value, MASK)

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return list(self.model_dump().items())


class SettingsError(ValueError):
    """The environment is not one to start with; `problems` has one sentence a problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def safe_url(url: str) -> str:
    """The URL without its password, for logs and errors; what is not a URL is masked whole."""
    if "://" not in url:
        return MASK
    url = _SECRET_PARAMETER.sub(rf"\g<1>{MASK}", url)
    head, at, tail = url.rpartition("@")  # the last @: a password may hold one
    if not at:
        return url
    scheme, _, login = head.partition("://")
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}:{MASK}@{tail}" if colon else f"{scheme}://{MASK}@{tail}"


def unknown_names(environ: Mapping[str, str]) -> list[str]:
    """A problem for each name with our prefix that is no setting, with the setting that was probably meant.

    Kubernetes puts the addresses of Services into every container (`METERLINE_SERVICE_HOST` for a Service
    named `meterline`), unless the Pod says `enableServiceLinks: false`; those are not misspelt settings.
    """
    known = [name.upper() for name in Settings.model_fields]
    problems = []
    for name, value in sorted(environ.items()):
        ours, short = name.upper().startswith(PREFIX), name.upper().removeprefix(PREFIX)
        if not ours or short in known or _SERVICE_LINK.search(f"{name}={value}"):
            continue
        close = difflib.get_close_matches(short, known, n=1)
        problems.append(f"{name} is not a setting" + (f"; did you mean {PREFIX}{close[0]}?" if close else ""))
    return problems


def _problems(error: ValidationError) -> list[str]:
    problems = []
    for one in error.errors(include_url=False):
        message = one["msg"].removeprefix("Value error, ")
        field = str(one["loc"][0]) if one["loc"] else ""
        if field not in Settings.model_fields:
            problems.append(f"{field}: {message}" if field else message)
            continue
        value = MASK if field == "kafka_options" else str(one["input"])
        if field.endswith("_url"):
            value = safe_url(value)
        problems.append(f"{PREFIX}{field.upper()}={value}: {message}")
    return problems


def _url(value: str, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018  # urlsplit reads the port only when it is asked for
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in schemes:
        raise ValueError(f"must start with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not parts.hostname and parts.scheme != "unix":
        raise ValueError("names no host")
    return value
