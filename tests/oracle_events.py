"""The oracle's reader: one Kafka record -> the usage event in it, or the reason it is a dead letter.

By json, re and Decimal, and nothing of ours; see tests/oracle.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TWELVE_DECIMALS = Decimal("1e-12")
WIDE = Context(prec=6000, Emax=MAX_EMAX, Emin=MIN_EMIN)

Position = tuple[str, int, int]
"""topic, partition, offset"""


@dataclass(frozen=True)
class LogRecord:
    """One record as it stands in Kafka."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    @property
    def position(self) -> Position:
        return self.topic, self.partition, self.offset


@dataclass(frozen=True)
class Rules:
    """The settings that change what the flow must give; defaults as in `dataflows.settings`."""

    usage_topic: str = "usage-events"
    account_topic: str = "account-events"
    event_bytes_max: int = 262_144
    event_ahead_max_s: int = 300
    event_age_max_d: int = 35
    dedupe_horizon_s: int = 600
    now: datetime | None = None
    """For what time alone does; the newest append time if it is not given."""


@dataclass(frozen=True)
class Event:
    """A good event: one row of `usage_events`. `properties` is parsed, its numbers are Decimals."""

    tenant_id: str
    event_name: str
    external_customer_id: str
    customer_id: str
    id: str
    timestamp: datetime
    source: str
    properties: dict[str, Any]
    ingested_at: datetime
    position: Position


class HugeInteger(Decimal):
    """An integer of over 4,300 characters: no property that a meter reads may hold one."""


class RejectedError(Exception):
    """The event goes to the dead letters; the message is the reason code."""


def read_event(record: LogRecord, rules: Rules) -> Event:
    """The event in a record, or RejectedError with the reason of the first field that is wrong."""
    raw = read_object(record, rules)
    if raw.get("specversion") not in (None, "", "1.0"):
        raise RejectedError("field_invalid")
    cloud = raw.get("specversion") == "1.0"
    identity = read_name(raw, "id", "missing_id")
    name = read_name(raw, "type" if cloud else "event_name", "missing_event_name")
    external = read_text(raw, "subject" if cloud else "external_customer_id")
    internal = read_text(raw, "customer_id")
    if not external and not internal:
        raise RejectedError("missing_customer")
    tenant = read_text(raw, "tenantid") if cloud else ""
    tenant = tenant or read_text(raw, "tenant_id") or tenant_header(record) or "default"
    source = read_text(raw, "source")
    appended = from_ms(record.append_ms)
    at = read_timestamp(raw.get("time" if cloud else "timestamp"), appended)
    if at > appended + timedelta(seconds=rules.event_ahead_max_s):
        raise RejectedError("timestamp_ahead")
    if at < appended - timedelta(days=rules.event_age_max_d):
        raise RejectedError("timestamp_too_old")
    properties = raw.get("data" if cloud else "properties")
    properties = {} if properties is None else properties
    if not isinstance(properties, dict) or (cloud and raw.get("data_base64") not in (None, "")):
        raise RejectedError("properties_invalid")
    return Event(
        tenant,
        name,
        external or internal,
        internal,
        identity,
        at,
        source,
        properties,
        appended,
        record.position,
    )


def read_object(record: LogRecord, rules: Rules) -> dict[str, Any]:
    payload = record.value or b""
    if len(payload) > rules.event_bytes_max:
        raise RejectedError("too_large")
    try:
        value = read_json(payload.decode("utf-8"))
        too_deep = depth(value) > 256
    except (ValueError, RecursionError):
        raise RejectedError("not_json") from None
    if too_deep:
        raise RejectedError("not_json")
    if not isinstance(value, dict):
        raise RejectedError("not_an_object")
    return value


def depth(value: object) -> int:
    """Levels of objects and lists."""
    if not isinstance(value, dict | list):
        return 0
    return 1 + max((depth(one) for one in (value.values() if isinstance(value, dict) else value)), default=0)


def read_json(text: str) -> Any:
    """JSON, numbers as Decimals of their own digits; ValueError for NaN, Infinity, half a surrogate pair."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    escapes = re.sub(r"\\[^u]", "", text)
    if re.search(r"\\u[dD][89a-fA-F]", re.sub(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..", "", escapes)):
        raise ValueError("half a surrogate pair")
    return json.loads(text, parse_float=read_number, parse_int=read_integer, parse_constant=refuse)


def read_number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of over 18 digits: out of range, and all one value to COUNT_UNIQUE
        return Decimal("Infinity")


def read_integer(text: str) -> Decimal:
    return HugeInteger(text) if len(text) > 4300 else Decimal(text)


def holds_huge_integer(value: object) -> bool:
    if isinstance(value, dict | list):
        return any(map(holds_huge_integer, value.values() if isinstance(value, dict) else value))
    return isinstance(value, HugeInteger)


def read_text(raw: dict[str, Any], name: str) -> str:
    """A string of at most 256 bytes; '' if it is missing, null or empty."""
    value = raw.get(name)
    if value is not None and not isinstance(value, str):
        raise RejectedError("field_invalid")
    return short(value or "")


def read_name(raw: dict[str, Any], name: str, reason: str) -> str:
    text = read_text(raw, name)
    if not text:
        raise RejectedError(reason)
    return text


def short(text: str) -> str:
    if len(text.encode()) > 256:
        raise RejectedError("field_too_long")
    return text


def tenant_header(record: LogRecord) -> str:
    """The last header `tenant-id`; '' if there is none or it is empty."""
    try:
        return short(
            ([b""] + [value or b"" for name, value in record.headers if name == "tenant-id"])[-1].decode()
        )
    except UnicodeDecodeError:
        raise RejectedError("field_invalid") from None


def read_timestamp(text: object, appended: datetime) -> datetime:
    """RFC 3339 with a zone, cut to milliseconds; the append time if there is none."""
    if text is None or text == "":
        return appended
    if not isinstance(text, str):
        raise RejectedError("timestamp_invalid")
    match = re.fullmatch(
        r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", text, re.ASCII
    )
    try:
        if match is None:
            raise ValueError(text)
        day, clock, fraction, zone = match.groups()
        at = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        raise RejectedError("timestamp_invalid") from None
    if not 1970 <= at.year < 2300:  # what ClickHouse's DateTime64 holds
        raise RejectedError("timestamp_invalid")
    return at + timedelta(milliseconds=int((fraction or "0")[:3].ljust(3, "0")))


def read_quantity(value: object) -> Decimal:
    """A JSON number, or a string that reads as one (a plus is allowed), at 12 decimals."""
    if isinstance(value, str):
        if not re.fullmatch(r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", value, re.ASCII):
            raise RejectedError("value_not_numeric")
        value = read_number(value)
    if not isinstance(value, Decimal):
        raise RejectedError("value_not_numeric")
    if -(10**18) < value < 10**18:
        value = value.quantize(TWELVE_DECIMALS, ROUND_HALF_EVEN, WIDE)
    if not -(10**18) < value < 10**18:
        raise RejectedError("value_out_of_range")
    return value


def canonical(value: object) -> str | None:
    """The text by which filters and distinct counts compare; None matches nothing."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Decimal):
        number = Decimal(value).normalize(WIDE)
        return "0" if not number else format(number, "f" if abs(number.adjusted()) <= 400 else "E")
    return value if isinstance(value, str) else None


def from_ms(at_ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=at_ms)
