"""A producer that goes on writing while everything around it dies: usage events and account events, by seed.

Mixed in: repeats, events hours late, events broken in every way, credits, debits and invoices, some of them
twice. Half of the customers have their events on all partitions, so that replays meet them in other orders;
copies of one event stay on one partition, since "first" has no meaning across two.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from types import TracebackType
from typing import Any, Self

import orjson
from confluent_kafka import Producer

from dataflows.workload import Produced, Workload
from dataflows.workload_catalog import CURRENCY, PLAN, workload_catalog

POLL_S = 0.05
_PLANS = ("subscription_started", "subscription_changed", "subscription_ended")
SPREAD_CUSTOMERS = "13579"
"""Customers whose name ends so have their events on all partitions."""


def crash_catalog() -> str:
    """The workload's catalog, with windows that close and are forgotten within a test."""
    catalog = workload_catalog().replace("allowed_lateness: 1h", "allowed_lateness: 5s", 2)
    assert catalog.count("allowed_lateness: 5s") == 2
    catalog = catalog.replace(f"  - id: {PLAN}\n", f"  - id: {PLAN}\n{_THRESHOLDS}")
    assert _THRESHOLDS in catalog
    head, tail = catalog.split("default_plan:")
    return f"{head}{_PRO}default_plan:{tail}"


_THRESHOLDS = """\
    thresholds:
      - {kind: low_balance, amount: "5"}
      - {kind: low_balance, amount: "-0.01"}
      - {kind: spend, amount: "0.02"}
"""
"""Low enough that a minute's usage crosses them, and a credit or an invoice again."""

_PRO = """\
  - id: pro
    currency: EUR
    charges:
      - price: {model: flat, amount: "29"}
      - meter: llm-tokens
        free_units: "500"
        price:
          model: graduated
          tiers: [{up_to: "5000", unit_amount: "0.003"}, {up_to: null, unit_amount: "0.001"}]
      - meter: api-requests
        price: {model: package, amount: "0.5", size: "10"}
      - meter: storage
        price:
          model: volume
          tiers: [{up_to: "100", unit_amount: "0.07"}, {up_to: null, unit_amount: "0.05"}]
"""
"""A plan that customers come to and leave while everything around it dies."""


def spread(event: Produced) -> bytes:
    """The record's key: the customer, or for half of them the event."""
    return event.value if event.customer[-1] in SPREAD_CUSTOMERS else event.key


def account_moves(workload: Workload, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of account events without end: money, invoices, plan changes, some of them twice.

    Half of the plan changes contradict the account: they must be dead letters, and change nothing.
    """
    chance = random.Random(f"moves {seed}")
    month = workload.start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    before = (month - timedelta(days=40)).replace(day=1)
    unpaid: list[dict[str, Any]] = []
    sent: list[tuple[bytes, bytes]] = []
    number = 0
    while True:
        number += 1
        if sent and chance.random() < 0.1:
            yield chance.choice(sent[-50:])
            continue
        event: dict[str, Any] = {
            "id": f"move-{seed}-{number}",
            "tenant_id": chance.choice(workload.tenants),
            "external_customer_id": f"cust_{chance.randrange(workload.customers):06d}",
            "timestamp": workload.start.isoformat(timespec="milliseconds"),
            "type": chance.choice(
                ["credit_granted", "debit", "debit", "invoice_issued", "invoice_paid", *_PLANS]
            ),
            "amount": f"{chance.randrange(1, 10_000) / 100:.2f}",
            "currency": CURRENCY,
        }
        if event["type"] in _PLANS:
            del event["amount"], event["currency"]
            event["timestamp"] = datetime.now(UTC).isoformat(timespec="milliseconds")
            if event["type"] != "subscription_ended":
                event["plan_id"] = chance.choice(["pro", PLAN])
        if event["type"] == "invoice_issued":
            event |= {"invoice_id": f"inv-{number}", "period_start": before.isoformat()}
            unpaid.append(event)
        elif event["type"] == "invoice_paid":
            if not unpaid:
                continue
            event = unpaid.pop() | {"id": event["id"], "type": "invoice_paid"}
        sent.append((event["external_customer_id"].encode(), orjson.dumps(event)))
        yield sent[-1]


class Load:
    """Writes `rate` usage events and `rate / 20` account events a second, from a thread, until it is left."""

    def __init__(self, brokers: str, seed: int, *, rate: float = 400, customers: int = 60) -> None:
        start = datetime.now(UTC)
        self._workload = Workload(
            seed, start=start, customers=customers, rate=rate, duplicates=0.05, bad=0.03, late=0.03
        )
        self._events = self._workload.events()
        self._moves = account_moves(self._workload, seed)
        self._rate = rate
        # Not idempotent, but in order: a broker's crash adds repeats, never a payment before its invoice.
        self._producer = Producer(
            {"bootstrap.servers": brokers, "linger.ms": 5, "acks": "all", "max.in.flight": 1}
        )
        self._stop = threading.Event()
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.written = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop; the broker has all that was written then."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()

    def flush(self) -> None:
        """Return when the broker has acknowledged all that was written."""
        assert self._producer.flush(60) == 0, "the broker did not acknowledge all"
        assert not self._failure, self._failure

    def write(self, events: int) -> None:
        """Write so many usage events now, and the account events that belong to them."""
        for event in islice(self._events, events):
            self._produce("usage-events", spread(event), event.value, list(event.headers))
        for key, value in islice(self._moves, events // 20):
            self._produce("account-events", key, value, [])
        self.written += events

    def _run(self) -> None:
        began = time.monotonic()
        try:
            while not self._stop.wait(POLL_S):
                due = int((time.monotonic() - began) * self._rate) // 20 * 20
                self.write(max(0, due - self.written))
        except Exception as error:
            self._failure = repr(error)

    def _produce(
        self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, str | bytes | None]]
    ) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, headers=headers, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def _delivered(self, error: object, _message: object) -> None:
        if error is not None:
            self._failure = str(error)
