"""Usage that was read before the subscription event that changes its plan."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from operators.folds import unpack
from schemas.events import RawBatch
from tests.builders import rfc3339
from tests.operators.pipeline import Pipeline
from tests.operators.stories import CATALOG, batch
from tests.oracle import LogRecord

NOON = datetime.fromisoformat("2026-11-23T12:00:00+00:00")
MINUTE = timedelta(minutes=1)


class Told:
    """One customer's records, read as they are told, and the clock with them."""

    def __init__(self) -> None:
        self.pipeline = Pipeline(CATALOG, NOON, shards=1)
        self._offsets = 0

    def _batch(self, topic: str, at: datetime, appended: datetime, fields: dict[str, Any]) -> RawBatch:
        self._offsets += 1
        self.pipeline.now = max(self.pipeline.now, appended)
        names = {"id": f"e{self._offsets}", "tenant_id": "t", "external_customer_id": "c"}
        value = json.dumps({**names, "timestamp": rfc3339(at), **fields}).encode()
        append_ms = round(appended.timestamp() * 1000)
        return batch([LogRecord(topic, 0, self._offsets, append_ms, b"k", value)], topic, append_ms)

    def use(self, at: datetime, user: str) -> None:
        fields = {"event_name": "llm", "properties": {"tokens": 1, "user": user}}
        self.pipeline.poll(self._batch("usage-events", at, at, fields))

    def send(self, kind: str, at: datetime, appended: datetime, **fields: Any) -> None:
        self.pipeline.poll_accounts(self._batch("account-events", at, appended, {"type": kind, **fields}))

    def users(self, plan_id: str) -> list[int]:
        """Distinct users charged, by segment."""
        charges = self.pipeline.drain().charges.items()
        return [
            int(row["quantity"])
            for key, row in sorted(charges)
            if key[3] == "users" and key[4] == plan_id and row["quantity"]
        ]

    def drain_charges(self) -> None:
        """Charges are sent, and with them minutes settle."""
        self.pipeline.snapshot()
        self.pipeline.drain()

    @property
    def movable(self) -> list[int]:
        """Minutes after noon."""
        ((_, _, bill),) = self.pipeline._shard.values()
        minutes = unpack(bill._bills.shelf.recent.key)[2].tolist()
        return sorted({minute - round(NOON.timestamp() / 60) for minute in minutes})


def test_distinct_values_that_are_settled_stay_and_the_rest_moves() -> None:
    told = Told()
    told.send("subscription_started", NOON, NOON, plan_id="weekly")
    told.use(NOON, "a")
    told.use(NOON + MINUTE, "b")
    told.send("debit", NOON, NOON + 20 * MINUTE, amount="1", currency="USD")
    for minute, user in ((12, "b"), (15, "c"), (19, "d")):
        told.use(NOON + minute * MINUTE, user)
    told.use(NOON + 20 * MINUTE, "d")
    told.drain_charges()
    assert told.movable == [12, 15, 19, 20]
    assert told.users("weekly") == [4]
    told.send("subscription_changed", NOON + 15 * MINUTE, NOON + 21 * MINUTE, plan_id="daily")
    assert told.users("weekly") == [2]  # a and b, which is in both the settled part and a movable minute
    assert told.users("daily") == [2]


def test_minutes_leave_when_all_sources_have_passed_them_by_the_lag() -> None:
    told = Told()
    told.use(NOON, "a")
    told.use(NOON + 30 * MINUTE, "b")
    told.drain_charges()
    assert told.movable == [0, 30]  # nothing is known of the account topic yet
    told.send("debit", NOON, NOON + 10 * MINUTE, amount="1", currency="USD")
    told.drain_charges()
    assert told.movable == [0, 30]
    told.send("debit", NOON, NOON + 11 * MINUTE, amount="1", currency="USD")
    told.drain_charges()
    assert told.movable == [30]
