"""A log that a test writes by hand, and what the oracle makes of it: for the oracle's own tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from tests.oracle import Expected, LogRecord, expected

CATALOG = """
meters:
  - {id: calls, event_name: call, aggregation: {type: COUNT}, window: 1m, allowed_lateness: 1m}
  - id: tokens
    event_name: llm
    aggregation: {type: SUM, field: tokens}
    filters: [{key: model, values: [large, 1.50, true]}, {key: tier, values: [a, b]}]
    window: 1h
  - {id: latency, event_name: call, aggregation: {type: AVG, field: ms}, on_missing: skip, window: 1d}
  - {id: users, event_name: seat, aggregation: {type: COUNT_UNIQUE, field: user}, window: 15m}
plans:
  - id: starter
    currency: USD
    billing_period: MONTHLY
    charges:
      - {meter: calls, price: {model: per_unit, unit_amount: "0.005"}}
      - {meter: tokens, price: {model: per_unit, unit_amount: "0.01"}}
      - {meter: latency, price: {model: per_unit, unit_amount: "1"}}
      - {meter: users, price: {model: per_unit, unit_amount: "2.5"}}
default_plan: starter
"""
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Log:
    """Records of one partition, appended at noon unless it is said otherwise."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self._ids: Iterator[int] = count(1)

    def add(self, after_s: float = 0, *, value: bytes | None = None, **fields: Any) -> tuple[str, int, int]:
        """Append an event of customer c, tenant t; `after_s`: append time after noon."""
        event = {"id": f"e{next(self._ids)}", "tenant_id": "t", "external_customer_id": "c"} | fields
        return self.add_value(after_s, json.dumps(event).encode() if value is None else value)

    def add_value(self, after_s: float, value: bytes, **record: Any) -> tuple[str, int, int]:
        at_ms = int((NOON + timedelta(seconds=after_s)).timestamp() * 1000)
        place: dict[str, Any] = {
            "topic": "usage-events",
            "partition": 0,
            "offset": len(self.records),
        } | record
        self.records.append(LogRecord(append_ms=at_ms, key=b"c", value=value, **place))
        return self.records[-1].position

    def judge(self) -> Expected:
        return expected(self.records, CATALOG)
