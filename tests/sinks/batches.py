"""Small batches of the tables' schemas, and waiting for what another thread does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from schemas.arrow import USAGE_EVENTS, USAGE_WINDOWS

AT = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)

UNIQUES = bytes.fromhex("0103128345aa2bc97190f150d642cec1649e77a76bb39d207bf2")
"""ClickHouse's uniqCombined64State of the three strings 0, 1 and 2."""

BROKEN = UNIQUES + b"x"
"""A state that ClickHouse refuses (code 36)."""

CUT = b"\x01"
"""A state that ClickHouse takes for a cut connection (code 32)."""


def windows(
    tenant: str,
    customers: Sequence[str],
    *,
    total: str = "1.5",
    version: int = 1,
    bad: dict[str, bytes] | None = None,
) -> pa.RecordBatch:
    """One window a customer; `bad`: customer -> the broken state of its window."""
    states = [(bad or {}).get(customer, UNIQUES) for customer in customers]
    return pa.RecordBatch.from_pylist(
        [
            {
                "tenant_id": tenant,
                "meter_id": "m",
                "external_customer_id": customer,
                "window_start": AT,
                "window_s": 60,
                "events": 3,
                "total": Decimal(total),
                "uniques": state,
                "version": version,
            }
            for customer, state in zip(customers, states, strict=True)
        ],
        schema=USAGE_WINDOWS,
    )


def events(tenant: str, ids: Sequence[str], *, event_name: str = "e") -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [
            {
                "tenant_id": tenant,
                "event_name": event_name,
                "external_customer_id": "c",
                "customer_id": "",
                "id": event_id,
                "timestamp": AT,
                "source": "",
                "properties": '{"n": 1}',
                "ingested_at": AT,
                "partition": 0,
                "offset": offset,
            }
            for offset, event_id in enumerate(ids)
        ],
        schema=USAGE_EVENTS,
    )


def eventually(true: Callable[[], Any], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
