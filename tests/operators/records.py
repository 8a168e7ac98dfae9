"""Kafka records of usage events, good and bad, as the tests of decoding write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from confluent_kafka import Message

from operators.decode import DecodeConfig
from operators.timestamps import parse_timestamp
from schemas.events import RawBatch
from schemas.records import Record

APPENDED = "2026-11-23T09:30:10.000Z"
APPEND_MS = parse_timestamp(APPENDED)
CONFIG = DecodeConfig(event_bytes_max=20_000)
EVENT: dict[str, Any] = {
    "id": "evt_1",
    "tenant_id": "acme",
    "event_name": "llm_tokens",
    "external_customer_id": "cust_42",
    "customer_id": None,
    "timestamp": "2026-11-23T09:30:00.123Z",
    "source": "gateway-eu",
    "properties": {"tokens": 812, "model": "large"},
}
CLOUD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "evt_1",
    "tenantid": "acme",
    "type": "llm_tokens",
    "subject": "cust_42",
    "time": "2026-11-23T09:30:00.123Z",
    "source": "gateway-eu",
    "data": {"tokens": 812, "model": "large"},
}
ABSENT = object()


def record(
    value: bytes | None,
    offset: int = 7,
    headers: list[tuple[str, bytes | None]] | None = None,
    append_ms: int = APPEND_MS,
) -> Record:
    message = Message(
        value=value,
        key=b"k",
        offset=offset,
        timestamp=(2, append_ms),
        headers=cast("list[tuple[str, str | bytes | None]] | None", headers),
    )
    return cast("Record", message)  # its type hints allow a None offset, which only an error has


def batch(records: Sequence[Record]) -> RawBatch:
    return RawBatch("usage-events", 3, records, progress_ms=APPEND_MS, partitions=4)


def payload(base: dict[str, Any], **changes: Any) -> bytes:
    fields = {name: value for name, value in {**base, **changes}.items() if value is not ABSENT}
    return json.dumps(fields).encode()


AHEAD = "2026-11-23T09:35:10.001Z"
OLD = "2026-10-19T09:30:09.999Z"
