"""Stories of two customers around a month's end: usage and account events as the two topics hold them.

A story is drawn by hypothesis; `tell` lets a pipeline read it in any order of polls, and crash now and then;
`differences` says where what it stored is not what the oracle makes of the same records.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast

from confluent_kafka import Message
from hypothesis import strategies as st

from schemas.catalog import load_catalog
from schemas.events import RawBatch
from schemas.records import Record
from tests.builders import rfc3339
from tests.operators.pipeline import Pipeline, utc
from tests.oracle import Expected, LogRecord, Rules, expected

CATALOG_YAML = """
meters:
  - {id: tokens, event_name: llm, aggregation: {type: SUM, field: tokens}}
  - {id: users, event_name: llm, aggregation: {type: COUNT_UNIQUE, field: user}}
  - {id: latency, event_name: llm, aggregation: {type: AVG, field: tokens}}
  - {id: stored, event_name: store, aggregation: {type: SUM, field: gb}, reset_usage: NEVER}
  - {id: seats, event_name: store, aggregation: {type: COUNT_UNIQUE, field: seat}, reset_usage: NEVER}
  - {id: free, event_name: free, aggregation: {type: COUNT}}
plans:
  - id: starter
    currency: USD
    charges:
      - price: {model: flat, amount: 5}
      - meter: tokens
        free_units: 3
        price:
          model: graduated
          tiers: [{up_to: 10, unit_amount: "0.333"}, {up_to: null, unit_amount: "0.1"}]
      - {meter: stored, price: {model: per_unit, unit_amount: "0.25"}}
  - id: daily
    currency: EUR
    billing_period: DAILY
    timezone: Europe/Berlin
    charges:
      - price: {model: flat, amount: 1}
      - {meter: tokens, price: {model: per_unit, unit_amount: "0.07"}}
      - {meter: users, price: {model: package, amount: 2, size: 2}}
      - {meter: seats, price: {model: per_unit, unit_amount: 1}}
  - id: weekly
    currency: USD
    billing_period: WEEKLY
    charges:
      - meter: latency
        price: {model: volume, tiers: [{up_to: 5, unit_amount: 1}, {up_to: null, flat_amount: 2}]}
      - {meter: users, price: {model: flat, amount: "0.5"}}
default_plan: starter
"""
CATALOG = load_catalog(CATALOG_YAML)
BEGIN = datetime.fromisoformat("2026-10-31T22:30:00+00:00")
MONTHS = ["2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z", "2026-10-31T23:00:00Z"]

usage_steps = st.fixed_dictionaries(
    {
        "event_name": st.sampled_from(["llm", "llm", "store", "free"]),
        "tokens": st.integers(-3, 12),
        "user": st.sampled_from(["u1", "u2", "u3", None]),
        "lag_s": st.sampled_from([0, 5, 61, 300, 599, 3000, 90_000]),
    }
)
ACCOUNT_TYPES = [
    "subscription_started",
    "subscription_started",
    "subscription_changed",
    "subscription_changed",
    "subscription_ended",
    "credit_granted",
    "debit",
    "invoice_issued",
    "invoice_paid",
    "invoice_voided",
    "adjustment",
]
account_steps = st.fixed_dictionaries(
    {
        "type": st.sampled_from(ACCOUNT_TYPES),
        "plan_id": st.sampled_from(["starter", "daily", "weekly"]),
        "anchor": st.sampled_from([None, "2026-10-31T22:40:00Z", "2026-01-31T00:00:30Z"]),
        "amount": st.integers(1, 30),
        "currency": st.sampled_from(["USD", "EUR"]),
        "lag_s": st.sampled_from([0, 0, 5, 61, 300, 599, 601, -3600]),
        "number": st.integers(1, 3),
    }
)
steps = st.lists(
    st.tuples(
        st.sampled_from([1, 20, 59, 200, 900, 7200]),
        st.sampled_from(["c1", "c2"]),
        st.one_of(usage_steps, account_steps),
    ),
    min_size=1,
    max_size=30,
)

busy_steps = st.lists(
    st.tuples(
        st.sampled_from([1, 20, 200, 900]),
        st.sampled_from(["c1", "c1", "c2"]),
        st.one_of(usage_steps, usage_steps, usage_steps, account_steps),
    ),
    min_size=10,
    max_size=40,
)
"""Much usage of few segments."""

DAY_S = 86_400
long_steps = st.lists(
    st.tuples(
        st.sampled_from([60, 3600, DAY_S, 9 * DAY_S, 40 * DAY_S, 100 * DAY_S]),
        st.sampled_from(["c1", "c2"]),
        st.one_of(usage_steps, account_steps),
    ),
    min_size=5,
    max_size=40,
)
"""Years of it, in which much is settled and forgotten."""


@dataclass
class Story:
    """The records of both topics, and the moment it ends."""

    usage: list[LogRecord]
    accounts: list[LogRecord]
    now: datetime

    @property
    def records(self) -> list[LogRecord]:
        return [*self.usage, *self.accounts]


def story_of(drawn: list[tuple[int, str, dict[str, Any]]], wait_s: int = 4000) -> Story:
    """The records that steps make: (seconds since the last one, customer, what happens)."""
    now, story = BEGIN, Story([], [], BEGIN)
    for number, (seconds, customer, step) in enumerate(drawn):
        now += timedelta(seconds=seconds)
        at = rfc3339(now - timedelta(seconds=step["lag_s"]))
        event = {"id": f"e{number}", "tenant_id": "t", "external_customer_id": customer, "timestamp": at}
        if "event_name" in step:
            _append(story.usage, "usage-events", now, event | _usage(step))
        else:
            _append(story.accounts, "account-events", now, event | _account(step, now))
    story.now = now + timedelta(seconds=wait_s)
    return story


def _usage(step: dict[str, Any]) -> dict[str, Any]:
    values = {"tokens": step["tokens"], "gb": step["tokens"], "user": step["user"], "seat": step["user"]}
    return {"event_name": step["event_name"], "properties": values}


def _account(step: dict[str, Any], now: datetime) -> dict[str, Any]:
    kind, money = step["type"], {"amount": str(step["amount"]), "currency": step["currency"]}
    invoice = {"invoice_id": f"i{step['number']}"}
    start = {"period_start": MONTHS[step["number"] - 1]}
    expiry = now + timedelta(seconds=1000 * step["amount"] - step["lag_s"])
    expires = {"expires_at": rfc3339(expiry)}
    fields: dict[str, dict[str, Any]] = {
        "subscription_ended": {},
        "credit_granted": money | {"priority": step["number"]} | (expires if step["number"] == 1 else {}),
        "debit": money,
        "invoice_issued": invoice | money | start,
        "invoice_paid": invoice | ({"amount": str(step["amount"])} if step["number"] == 2 else {}),
        "invoice_voided": invoice,
        "adjustment": {"meter_id": "tokens", **start, "quantity": str(step["amount"] - 9), "reason": "r"},
    }
    plan = {"plan_id": step["plan_id"]} | ({"period_anchor": step["anchor"]} if step["anchor"] else {})
    return {"type": kind, **fields.get(kind, plan)}


def _append(log: list[LogRecord], topic: str, now: datetime, event: dict[str, Any]) -> None:
    append_ms = round(now.timestamp() * 1000)
    log.append(LogRecord(topic, 0, len(log), append_ms, b"k", json.dumps(event).encode()))


def batch(records: list[LogRecord], topic: str, progress_ms: int) -> RawBatch:
    """A poll as a source of one partition gives it."""
    messages = [
        Message(value=r.value, key=r.key, offset=r.offset, timestamp=(2, r.append_ms)) for r in records
    ]
    return RawBatch(topic, 0, cast("list[Record]", messages), progress_ms=progress_ms, partitions=1)


def tell(
    story: Story,
    chance: random.Random,
    crashes: int = 0,
    polled: Sequence[int] = (1, 2, 5, 40),
    at_snapshot: Callable[[Pipeline], object] = lambda _: None,
) -> Pipeline:
    """A pipeline that has read a story in an order by chance, with crashes, and to the same end.

    :arg polled: How many records a poll may have.
    :arg at_snapshot: Called after each.
    """
    pipeline = Pipeline(CATALOG, BEGIN, shards=2)
    kept, read, kept_read = pipeline.snapshot(), [0, 0], [0, 0]
    logs = (story.usage, story.accounts)
    while read != [len(story.usage), len(story.accounts)] or crashes:
        choice = chance.random()
        if crashes and choice < 0.1:
            crashes -= 1
            pipeline.resume(kept)
            read = list(kept_read)
        elif choice < 0.25:
            kept, kept_read = pipeline.snapshot(), list(read)
            at_snapshot(pipeline)
        elif choice < 0.45:
            pipeline.tick(chance.choice([0.2, 3, 30]))
        else:
            topic = chance.randrange(2)
            taken = logs[topic][read[topic] : read[topic] + chance.choice(polled)]
            read[topic] += len(taken)
            _poll(pipeline, topic, taken, story)
    end_ms = round(story.now.timestamp() * 1000)
    for topic in (0, 1):
        _poll(pipeline, topic, [], story, progress_ms=end_ms)
    pipeline.now = max(pipeline.now, story.now)
    pipeline.tick(0)
    pipeline.drain()
    return pipeline


def _poll(
    pipeline: Pipeline, topic: int, records: list[LogRecord], story: Story, progress_ms: int | None = None
) -> None:
    if records:
        progress_ms = records[-1].append_ms
        pipeline.now = max(pipeline.now, utc(progress_ms))
    if progress_ms is not None and topic == 0:
        pipeline.poll(batch(records, "usage-events", progress_ms))
    elif progress_ms is not None:
        pipeline.poll_accounts(batch(records, "account-events", progress_ms))


def judged(story: Story, now: datetime | None = None) -> Expected:
    return expected(story.records, CATALOG_YAML, Rules(now=now or story.now))


def differences(pipeline: Pipeline, out: Expected) -> list[str]:
    """Where the stores are not what the oracle expects; rows that say nothing but 0 are as good as none."""
    stores = pipeline.stores
    none = (0, Decimal(0), Decimal(0), Decimal(0))
    charges = {
        (t, c, m, p, plan): (row["events"], row["quantity"], row["amount_unrounded"], row["amount"])
        for (t, c, p, m, plan), row in stores.charges.items()
    }
    wanted = {
        key: (one.events, one.quantity, one.amount_unrounded, one.amount) for key, one in out.charges.items()
    }
    found = [
        f"charge {key}: {charges.get(key)} is not {wanted.get(key)}"
        for key in charges.keys() | wanted.keys()
        if charges.get(key, none) != wanted.get(key, none)
    ]
    empty = (Decimal(0),) * 4
    wallets = {
        key: (row.balance, row.unpaid_invoices, row.usage, row.available)
        for key, row in stores.wallets.items()
    }
    wallets_wanted = {
        key: (one.balance, one.unpaid_invoices, one.usage, one.available) for key, one in out.wallets.items()
    }
    found += [
        f"wallet {key}: {wallets.get(key)} is not {wallets_wanted.get(key)}"
        for key in wallets.keys() | wallets_wanted.keys()
        if wallets.get(key, empty) != wallets_wanted.get(key, empty)
    ]
    rejects = {place: str(reject.reason) for place, reject in stores.rejects.items()}
    return found + ([f"rejects {rejects} are not {out.rejects}"] if rejects != out.rejects else [])
