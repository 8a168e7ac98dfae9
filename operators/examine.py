"""One record, field by field: what it says, or the reason it is refused.

record -> `Event`, or raises `RefusedError`. This is the meaning of `decode`, which reads most records by
columns and hands over only those that a check of a column flags. The first of these that fails is the reason:

    size, UTF-8 and JSON syntax and nesting, an object, `specversion`, `id`, `event_name`,
    `external_customer_id` and `customer_id`, `tenant_id`, `source`, `timestamp`, `properties`

and of one field: its type, that it is there, its length. null and "" are the same as a missing field. Of a
key written twice the last counts. Any character may be in an id, NUL too: ClickHouse and Redis store bytes.
Numbers in `properties` have no limit here: read them as text or decimals, as 1e400 is JSON and no float.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from operators.timestamps import INVALID_MS, TIMESTAMP_MS_MAX, parse_timestamp
from schemas.events import Reason
from schemas.records import Record

NESTING_MAX = 256
"""Levels of objects and lists in a payload. msgspec stops at Python's recursion limit (1000 less the caller's
depth); this limit is the same wherever a payload is read, and leaves later steps room to read it again."""

TENANT_HEADER = "tenant-id"
NO_PROPERTIES = msgspec.Raw(b"{}")


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """Limits of an event. What is past one of them goes to the dead letters."""

    event_bytes_max: int = 262_144
    """A longer payload is `too_large`."""
    ahead_max_s: int = 300
    """A timestamp further after the record's append time is `timestamp_ahead`."""
    age_max_d: int = 35
    """A timestamp further before the record's append time is `timestamp_too_old`."""
    text_bytes_max: int = 256
    """An id or a name of more UTF-8 bytes is `field_too_long`."""
    default_tenant: str = "default"
    """The tenant of an event without `tenant_id` in a record without the header `tenant-id`."""


class Event(msgspec.Struct, gc=False):
    """What a usage event says, under its native names."""

    id: str | None = None
    tenant_id: str | None = None
    event_name: str | None = None
    external_customer_id: str | None = None
    customer_id: str | None = None
    timestamp: str | None = None
    source: str | None = None
    properties: msgspec.Raw = NO_PROPERTIES


CLOUD_NAMES: Final = {
    "event_name": "type",
    "external_customer_id": "subject",
    "timestamp": "time",
    "properties": "data",
}
"""A field's name in a CloudEvent; the others have the same name."""


class RefusedError(Exception):
    """The record is no usage event: why, and a sentence naming field, value and rule."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def examine(record: Record, config: DecodeConfig) -> Event:
    """What `record` says: native names, the tenant filled in, `timestamp` None for the append time.

    Raises `RefusedError` and nothing else, whatever the bytes.
    """
    fields = _fields(record.value(), config)
    cloud = _is_cloud_event(fields)
    names = CLOUD_NAMES if cloud else {}
    event = Event(
        id=_name(fields, "id", Reason.MISSING_ID, config),
        event_name=_name(fields, names.get("event_name", "event_name"), Reason.MISSING_EVENT_NAME, config),
    )
    external = names.get("external_customer_id", "external_customer_id")
    event.external_customer_id = _short_text(fields, external, config)
    event.customer_id = _short_text(fields, "customer_id", config)
    if event.external_customer_id is None and event.customer_id is None:
        raise RefusedError(Reason.MISSING_CUSTOMER, f"neither `{external}` nor `customer_id` is there")
    event.tenant_id = (
        (_short_text(fields, "tenantid", config) if cloud else None)
        or _short_text(fields, "tenant_id", config)
        or _tenant_of_header(record, config)
        or config.default_tenant
    )
    event.source = _short_text(fields, "source", config)
    event.timestamp = _timestamp(fields, names.get("timestamp", "timestamp"), record, config)
    event.properties = _properties(fields, cloud=cloud)
    return event


def tenant_of_header(record: Record) -> bytes | None:
    """The value of the last header `tenant-id`."""
    values = [value for name, value in record.headers() or () if name == TENANT_HEADER]
    return values[-1] if values else None


def is_nested_too_deeply(payload: bytes) -> bool:
    """Whether a JSON text has more levels than `NESTING_MAX`."""
    if payload.count(b"[") + payload.count(b"{") <= NESTING_MAX:
        return False
    code = np.frombuffer(_JSON_STRING.sub(b"", payload), np.uint8)
    opened = np.isin(code, (ord("["), ord("{"))).astype(np.int64)
    closed = np.isin(code, (ord("]"), ord("}"))).astype(np.int64)
    return bool((opened - closed).cumsum().max(initial=0) > NESTING_MAX)


_JSON_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_syntax = msgspec.json.Decoder(msgspec.Raw).decode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_string = msgspec.json.Decoder(str).decode


def _fields(payload: bytes | None, config: DecodeConfig) -> dict[str, msgspec.Raw]:
    if payload is None:
        raise RefusedError(Reason.NOT_JSON, "the record has no value")
    if len(payload) > config.event_bytes_max:
        raise RefusedError(
            Reason.TOO_LARGE,
            f"the payload has {len(payload)} bytes, over the limit of {config.event_bytes_max}",
        )
    try:
        payload.decode()
        value = _syntax(payload)
    except UnicodeDecodeError as error:
        raise RefusedError(
            Reason.NOT_JSON, f"the payload is not UTF-8: {error.reason} at byte {error.start}"
        ) from None
    except msgspec.DecodeError as error:
        raise RefusedError(Reason.NOT_JSON, f"the payload {_shown(payload)} is not JSON: {error}") from None
    except RecursionError:
        raise _nested_too_deeply() from None
    if is_nested_too_deeply(payload):
        raise _nested_too_deeply()
    if bytes(value)[:1] != b"{":
        raise RefusedError(Reason.NOT_AN_OBJECT, f"the payload {_shown(payload)} is not an object")
    return _object(payload)


def _nested_too_deeply() -> RefusedError:
    return RefusedError(Reason.NOT_JSON, f"the payload is nested deeper than {NESTING_MAX} levels")


def _is_cloud_event(fields: dict[str, msgspec.Raw]) -> bool:
    version = _text(fields, "specversion")
    if version not in {None, "1.0"}:
        raise RefusedError(
            Reason.FIELD_INVALID, f"`specversion` is {_shown(version)}, and only CloudEvents 1.0 are read"
        )
    return version is not None


def _name(fields: dict[str, msgspec.Raw], name: str, missing: Reason, config: DecodeConfig) -> str:
    text = _short_text(fields, name, config)
    if text is None:
        raise RefusedError(missing, f"`{name}` is missing or empty")
    return text


def _short_text(fields: dict[str, msgspec.Raw], name: str, config: DecodeConfig) -> str | None:
    text = _text(fields, name)
    return None if text is None else _limited(text, f"`{name}`", config)


def _text(fields: dict[str, msgspec.Raw], name: str, wrong: Reason = Reason.FIELD_INVALID) -> str | None:
    """The string at `name`; None where it is missing, null or empty."""
    raw = bytes(fields.get(name, b"null"))
    if raw == b"null":
        return None
    if raw[:1] != b'"':
        raise RefusedError(wrong, f"`{name}` is {_shown(raw)}, not a string")
    return _string(raw) or None


def _limited(text: str, what: str, config: DecodeConfig) -> str:
    length = len(text.encode())
    if length > config.text_bytes_max:
        raise RefusedError(
            Reason.FIELD_TOO_LONG,
            f"{what} is {_shown(text)} of {length} bytes, over the limit of {config.text_bytes_max}",
        )
    return text


def _tenant_of_header(record: Record, config: DecodeConfig) -> str | None:
    value = tenant_of_header(record)
    if not value:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise RefusedError(
            Reason.FIELD_INVALID, f"the header `{TENANT_HEADER}` is {value[:60]!r}, not UTF-8"
        ) from None
    return _limited(text, f"the header `{TENANT_HEADER}`", config)


def _timestamp(fields: dict[str, msgspec.Raw], name: str, record: Record, config: DecodeConfig) -> str | None:
    append_ms = record.timestamp()[1]
    if not 0 <= append_ms <= TIMESTAMP_MS_MAX:
        raise RefusedError(
            Reason.TIMESTAMP_INVALID,
            f"the record's own timestamp is {append_ms} ms, not between 1970 and 2299",
        )
    text = _text(fields, name, Reason.TIMESTAMP_INVALID)
    if text is None:
        return None
    ms = parse_timestamp(text)
    if ms == INVALID_MS:
        raise RefusedError(
            Reason.TIMESTAMP_INVALID,
            f"`{name}` is {_shown(text)}, not RFC 3339 with a zone, such as 2026-11-23T09:30:00.123Z",
        )
    if ms - append_ms > config.ahead_max_s * 1000:
        raise RefusedError(
            Reason.TIMESTAMP_AHEAD,
            f"`{name}` is {_shown(text)}, {(ms - append_ms) / 1000:.0f} s after the append time,"
            f" over the limit of {config.ahead_max_s} s",
        )
    if append_ms - ms > config.age_max_d * 86_400_000:
        raise RefusedError(
            Reason.TIMESTAMP_TOO_OLD,
            f"`{name}` is {_shown(text)}, {(append_ms - ms) / 86_400_000:.1f} days before the append time,"
            f" over the limit of {config.age_max_d} days",
        )
    return text


def _properties(fields: dict[str, msgspec.Raw], *, cloud: bool) -> msgspec.Raw:
    if cloud and _text(fields, "data_base64", Reason.PROPERTIES_INVALID) is not None:
        raise RefusedError(
            Reason.PROPERTIES_INVALID, "`data_base64` is binary data, and only JSON `data` is read"
        )
    name = CLOUD_NAMES["properties"] if cloud else "properties"
    raw = fields.get(name, NO_PROPERTIES)
    text = bytes(raw)
    if text == b"null":
        return NO_PROPERTIES
    if text[:1] != b"{":
        raise RefusedError(Reason.PROPERTIES_INVALID, f"`{name}` is {_shown(text)}, not an object")
    return raw


def _shown(value: str | bytes | None) -> str:
    """A value as a sentence can bear it: 60 characters of printable text."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return repr(text if len(text) <= 60 else text[:60] + "…")
