"""A day of six customers, minute by minute: usage, and everything that an account event can do.

`Day(date)` -> Kafka records, each with the moment at which it is appended (the topics have CreateTime, so
that a whole day is written in a second). Their plans: tests/e2e/day_catalog.py.
The last record of all is an account event: by then both topics have passed the day.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson

USAGE_EVENTS = 4000
SPREAD = "eve"
"""The customer whose events are on all partitions, so that each replay meets them in another order."""

CUSTOMERS = (
    ("acme", "ana"),
    ("acme", "bob"),
    ("acme", "cho"),
    ("acme", "dan"),
    ("acme", SPREAD),
    ("globex", "ana"),
)


@dataclass(frozen=True)
class DayRecord:
    """A record to produce, with the append time that it claims."""

    topic: str
    key: bytes
    value: bytes
    append_ms: int


class Day:
    """What happens on a date, UTC."""

    def __init__(self, on: date, seed: int = 1) -> None:
        self.start = datetime.combine(on, time(), UTC)
        self.end = self.start + timedelta(days=1)
        self._on = on
        self._chance = random.Random(f"day {seed}")
        self._accounts: list[DayRecord] = []

    def records(self) -> list[DayRecord]:
        """In the order of their append times."""
        self._accounts.clear()
        for story in (self._ana, self._bob, self._cho, self._dan, self._eve, self._globex_ana, self._refused):
            story()
        found = [*self._accounts, *self._usage()]
        return sorted(found, key=lambda record: record.append_ms)

    def at(self, clock: str, zone: str = "UTC") -> datetime:
        """A time of the day, "12:30" or "12:30:05"."""
        return datetime.combine(self._on, time.fromisoformat(clock), ZoneInfo(zone)).astimezone(UTC)

    # -- what happens to the customers

    def _ana(self) -> None:
        """Starter, then business from the middle of a minute on; credits in both currencies; all is paid."""
        self._event("ana", "00:10", "subscription_started", plan_id="starter")
        later = rfc3339(self.end + timedelta(days=30))
        self._event(
            "ana", "00:20", "credit_granted", amount="60.25", currency="USD", expires_at=self._text("18:00")
        )
        self._event(
            "ana", "00:21", "credit_granted", amount="50", currency="USD", priority=5, expires_at=later
        )
        self._event("ana", "00:22", "credit_granted", amount=25, currency="USD", expires_at=later)
        self._event(
            "ana", "10:00", "debit", amount="70.255", currency="USD"
        )  # all of the 50, and 20.255 of the 60.25
        self._event("ana", "12:00:30", "subscription_changed", plan_id="business")
        self._event("ana", "12:05", "credit_granted", amount="500", currency="EUR")
        midnight = self._text("00:00")
        invoice: dict[str, Any] = {
            "invoice_id": "inv-1",
            "amount": "91.07",
            "currency": "USD",
            "period_start": midnight,
        }
        self._event("ana", "12:30", "invoice_issued", **invoice)
        self._event("ana", "13:00", "invoice_paid", invoice_id="inv-1", amount="41.07")
        self._event("ana", "14:00", "invoice_paid", invoice_id="inv-1")
        self._adjust("ana", "15:00", "tokens", "12:00", "-750.5")
        self._event("ana", "19:00", "debit", amount="1000", currency="USD")  # more than what has not expired
        self._event(
            "ana", "23:59:59", "credit_granted", amount="10", currency="USD"
        )  # the newest record of all

    def _bob(self) -> None:
        """No subscription: the default plan. An overdraft, and an invoice of the month that is voided."""
        self._event("bob", "01:00", "debit", amount="30", currency="USD")
        self._event("bob", "02:00", "credit_granted", amount="45.5", currency="USD")
        month = rfc3339(self.start.replace(day=1))
        invoice: dict[str, Any] = {
            "invoice_id": "inv-1",
            "amount": "7",
            "currency": "USD",
            "period_start": month,
        }
        self._event("bob", "06:00", "invoice_issued", **invoice)
        self._event("bob", "09:00", "invoice_voided", invoice_id="inv-1")
        self._event("bob", "09:30", "invoice_issued", **invoice | {"invoice_id": "inv-2", "amount": "6.5"})

    def _cho(self) -> None:
        """A week in yen; usage is adjusted upwards; an invoice of another period stays unpaid."""
        self._event("cho", "00:05", "subscription_started", plan_id="yen")
        self._event("cho", "00:06", "credit_granted", amount=20000, currency="JPY", priority=0)
        self._adjust("cho", "08:00", "tokens", "00:05", "12345.678")
        before = rfc3339(self.at("00:00", "Asia/Tokyo") - timedelta(days=20))
        invoice: dict[str, Any] = {
            "invoice_id": "inv-9",
            "amount": 4200,
            "currency": "JPY",
            "period_start": before,
        }
        self._event("cho", "11:00", "invoice_issued", **invoice)
        self._event("cho", "11:30", "invoice_paid", invoice_id="inv-9", amount=200)

    def _dan(self) -> None:
        """A month in dinars from an anchor on, told nine minutes late, and back to the default plan."""
        anchor = rfc3339(self.at("00:00", "Asia/Bahrain") - timedelta(days=3))
        low = {"id": "in-debt", "kind": "low_balance", "amount": "-1"}
        self._event("dan", "02:00", "thresholds_set", currency="BHD", thresholds=[low])
        self._event("dan", "03:00", "subscription_started", lag_s=540, plan_id="dinar", period_anchor=anchor)
        self._event("dan", "04:00", "credit_granted", amount="3.005", currency="BHD")
        self._event("dan", "16:00", "subscription_ended")

    def _eve(self) -> None:
        """To and fro between plans; Berlin's day ends before UTC's, and its invoice covers two segments."""
        self._event("eve", "00:01", "subscription_started", plan_id="business")
        self._event("eve", "09:00", "subscription_changed", plan_id="starter")
        self._event("eve", "17:00", "subscription_changed", lag_s=300, plan_id="business")
        berlin = rfc3339(self.at("00:00", "Europe/Berlin"))
        invoice: dict[str, Any] = {
            "invoice_id": "inv-1",
            "amount": "187.2",
            "currency": "EUR",
            "period_start": berlin,
        }
        self._event("eve", "23:30", "invoice_issued", **invoice)

    def _globex_ana(self) -> None:
        """Another tenant's customer of the same name: nothing of acme's is hers."""
        self._event("ana", "05:00", "subscription_started", tenant_id="globex", plan_id="yen")
        self._event("ana", "05:01", "credit_granted", tenant_id="globex", amount="99", currency="JPY")

    def _refused(self) -> None:
        """Once more what was applied, and what contradicts the account."""
        self._accounts += self._chance.sample(self._accounts, 8)
        self._event("bob", "20:00", "invoice_paid", invoice_id="never-issued")
        self._event("bob", "20:01", "subscription_changed", plan_id="starter")
        self._event("ana", "20:02", "subscription_started", plan_id="starter")
        self._event("cho", "20:03", "subscription_changed", lag_s=660, plan_id="starter")
        self._event("bob", "20:04", "teleported")

    def _adjust(self, customer: str, clock: str, meter: str, period: str, quantity: str) -> None:
        more: dict[str, Any] = {
            "meter_id": meter,
            "period_start": self._text(period),
            "quantity": quantity,
            "reason": "agreed",
        }
        self._event(customer, clock, "adjustment", **more)

    def _event(
        self, customer: str, clock: str, kind: str, *, lag_s: int = 0, tenant_id: str = "acme", **fields: Any
    ) -> None:
        at = self.at(clock)
        event = {
            "id": f"acc-{len(self._accounts)}",
            "tenant_id": tenant_id,
            "external_customer_id": customer,
            "timestamp": rfc3339(at),
            "type": kind,
        } | fields
        append_ms = milliseconds(at) + lag_s * 1000
        self._accounts.append(DayRecord("account-events", customer.encode(), orjson.dumps(event), append_ms))

    def _text(self, clock: str) -> str:
        return rfc3339(self.at(clock))

    # -- what they use

    def _usage(self) -> Iterator[DayRecord]:
        """Over the day but its last minutes; some twice, some hours late, some that no meter can read."""
        last_ms = 86_400_000 - 600_000
        for number in range(USAGE_EVENTS):
            tenant, customer = self._chance.choice(CUSTOMERS)
            append_ms = milliseconds(self.start) + 1000 + number * last_ms // USAGE_EVENTS
            late_ms = self._chance.randrange(7_200_000) if self._chance.random() < 0.05 else 0
            at_ms = append_ms - late_ms - self._chance.randrange(1000)
            event = {
                "id": f"use-{number}",
                "tenant_id": tenant,
                "external_customer_id": customer,
                "timestamp": rfc3339(datetime.fromtimestamp(at_ms / 1000, UTC)),
            } | self._content()
            key = f"{number}" if customer == SPREAD else customer
            record = DayRecord("usage-events", key.encode(), orjson.dumps(event), append_ms)
            yield record
            if self._chance.random() < 0.02:  # within the horizon
                yield DayRecord(record.topic, record.key, record.value, append_ms + 60_000)

    def _content(self) -> dict[str, Any]:
        chance = self._chance
        name = chance.choice(["llm_tokens", "llm_tokens", "api_call", "storage"])
        if name == "llm_tokens":
            tokens = "many" if chance.random() < 0.01 else f"{chance.lognormvariate(5, 1.5):.3f}"
            properties: dict[str, Any] = {"tokens": tokens, "model": chance.choice(["large", "small", "old"])}
            properties["user_id"] = f"u{chance.randrange(300)}"
        elif name == "api_call":
            properties = {"latency_ms": chance.randrange(500)} if chance.random() < 0.9 else {}
        else:
            properties = {"gb": f"{chance.uniform(-1, 1.2):.6f}"}
        return {"event_name": name, "properties": properties}


def rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
