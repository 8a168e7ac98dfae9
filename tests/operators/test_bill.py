"""When wallets, charges and alerts are sent: timers on a clock that the test moves; the step in a flow."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import bytewax.operators as op
import pyarrow as pa
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

from operators.bill import Alerts, BillLogic, ChargeRows, WalletRows, bill
from operators.bills import BillConfig
from operators.decode import DecodeConfig, decode_batch
from operators.meter import Measure
from operators.shard import Sharder
from schemas.catalog import load_catalog
from schemas.events import RawBatch, Reason, Reject
from schemas.usage import AccountSlice, Slice
from schemas.wallets import WalletAlert, WalletRow
from tests.builders import account_event, payload, rfc3339, usage_event
from tests.operators.batches import account_slice_of
from tests.operators.records import record
from tests.operators.stories import CATALOG_YAML

NOON = datetime.fromisoformat("2026-11-23T12:00:00+00:00")
CATALOG = load_catalog(
    CATALOG_YAML.replace("  - id: starter\n", "  - id: starter\n    thresholds: [{kind: spend, amount: 6}]\n")
)
CONFIG = BillConfig(CATALOG, wallet_flush_ms=100, charge_flush_ms=1000, shards=1)


def slice_of(at: datetime, tokens: int = 13) -> Slice:
    """One reading of customer cust_1, appended when it happened."""
    event = usage_event({"tokens": tokens, "user": "u"}, at=at, event_name="llm")
    appended = round(at.timestamp() * 1000)
    poll = RawBatch("usage-events", 0, [record(payload(event), append_ms=appended)], appended, 1)
    decoded, rejects = decode_batch([poll], DecodeConfig())
    assert rejects == []
    ((_, piece),) = Sharder(1).split(Measure(CATALOG.meters).measure(decoded)[0])
    return piece


IDLE = AccountSlice((), ())
"""What an idle source says: it may only once the last snapshot is committed."""


class Clocked:
    """The logic of one shard, and what it sent."""

    def __init__(self, state: bytes | None = None, now: datetime = NOON) -> None:
        self.now = now
        self.logic = BillLogic(state, CONFIG, lambda: self.now)

    def feed(self, *pieces: Slice | AccountSlice) -> list[Any]:
        return list(self.logic.on_batch(list(pieces))[0])

    def after(self, milliseconds: float) -> list[str]:
        """What is sent then, if its timer is due by then."""
        self.now += timedelta(milliseconds=milliseconds)
        due = self.logic.notify_at()
        sent = list(self.logic.on_notify()[0]) if due is not None and due <= self.now else []
        return [type(item).__name__ for item in sent]


def test_wallets_leave_after_their_flush_and_charges_and_alerts_once_a_commit_has_them() -> None:
    shard = Clocked()
    assert shard.logic.notify_at() is None
    assert shard.feed(slice_of(NOON)) == []
    assert shard.after(99) == []
    assert shard.after(1) == ["WalletRows"]
    assert shard.after(899) == []
    assert shard.after(1) == []  # charges are due, but no snapshot has them
    shard.logic.snapshot()
    assert shard.after(1000) == []  # a snapshot has them, and it may not be committed yet
    assert shard.feed(IDLE) == []
    assert shard.after(100) == ["Alerts"]
    assert shard.after(900) == ["ChargeRows"]
    assert shard.after(5000) == []
    assert shard.logic.notify_at() is None


def test_charges_of_usage_that_a_commit_has_leave_at_once() -> None:
    shard = Clocked()
    shard.feed(slice_of(NOON))
    assert shard.after(100) == ["WalletRows"]
    shard.logic.snapshot()
    shard.feed(IDLE)
    assert shard.after(1000) == ["Alerts", "ChargeRows"]
    shard.feed(slice_of(NOON + timedelta(seconds=1)))
    assert shard.after(1000) == ["WalletRows", "ChargeRows"]


def test_alerts_that_a_crash_found_unsent_are_sent_on_resume() -> None:
    shard = Clocked()
    shard.feed(slice_of(NOON))
    shard.after(100)
    assert Clocked(shard.logic.snapshot()).after(0) == ["WalletRows", "Alerts", "ChargeRows"]


def test_the_end_of_input_sends_all_and_keeps_the_state() -> None:
    shard = Clocked()
    shard.feed(slice_of(NOON))
    sent, discard = shard.logic.on_eof()
    assert [type(item) for item in sent] == [WalletRows, Alerts, ChargeRows]
    assert not discard
    resumed = Clocked(shard.logic.snapshot())
    assert resumed.after(0) == ["WalletRows"]  # all wallets, as Redis may have lost them; no alert again
    assert resumed.after(5000) == []


def test_a_credit_that_expires_changes_the_wallet_when_it_does_also_after_a_resume() -> None:
    expiry = NOON + timedelta(hours=1)
    credit = account_event(at=NOON, expires_at=rfc3339(expiry))
    shard = Clocked()
    shard.feed(slice_of(NOON), account_slice_of(NOON, credit))
    shard.after(100)
    shard.logic.snapshot()
    shard.feed(IDLE)
    shard.after(1000)
    assert shard.logic.notify_at() == expiry
    for one in (shard, Clocked(shard.logic.snapshot(), now=expiry - timedelta(seconds=1))):
        one.after(0)
        assert one.logic.notify_at() == expiry
        one.now = expiry
        (wallets, *_) = one.logic.on_notify()[0]
        assert isinstance(wallets, WalletRows)
        (row,) = wallets.rows
        assert row.balance == 0
        assert one.logic.notify_at() != expiry


def test_a_fee_begins_when_the_account_topic_has_passed_its_start_and_not_by_the_clock() -> None:
    shard = Clocked()
    start = account_event("subscription_started", at=NOON, plan_id="daily")
    shard.feed(account_slice_of(NOON, start))
    shard.after(100)
    shard.now += timedelta(days=3)
    assert shard.logic.notify_at() is not None
    shard.after(0)
    shard.feed(account_slice_of(NOON + timedelta(days=1)))
    (wallets,) = (item for item in shard.logic.on_eof()[0] if isinstance(item, WalletRows))
    assert [str(row.usage) for row in wallets.rows if row.currency == "EUR"] == ["2.00"]


def test_an_event_that_contradicts_its_account_comes_back_as_its_record() -> None:
    (reject,) = Clocked().feed(account_slice_of(NOON, account_event("invoice_paid", at=NOON, invoice_id="x")))
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.offset) == (Reason.ACCOUNT_EVENT_IMPOSSIBLE, 0)
    assert "'x' was never issued" in reject.detail
    assert json.loads(reject.payload)["invoice_id"] == "x"


@pytest.mark.parametrize(
    ("behind_s", "cost_ms", "waited_ms"),
    [
        (0.05, 0, 100),
        (0.05, 900, 100),  # however long it takes, a flow that keeps up sends at once
        (1, 0, 100),  # behind, and not for the wallets' sake
        (1, 100, 200),  # half of the time
        (1, 900, 1000),
        (60, 0, 2000),
        (60, 90, 3000),  # 3 %
        (60, 900, 10_000),
    ],
)
def test_wallets_wait_longer_only_in_a_flow_that_is_behind(
    behind_s: float, cost_ms: int, waited_ms: int
) -> None:
    shard = Clocked()
    shard.feed(slice_of(NOON))
    shard.logic._wallet_cost = timedelta(milliseconds=cost_ms)
    shard.logic._wallets_due = None
    shard.logic._wallets_sent_at = shard.now = NOON + timedelta(seconds=behind_s)
    shard.feed(slice_of(NOON))
    assert shard.logic._wallets_due == shard.now + timedelta(milliseconds=waited_ms)


def test_wallets_do_not_wait_after_the_stream_stood_still() -> None:
    shard = Clocked()
    shard.feed(slice_of(NOON))
    assert shard.after(100) == ["WalletRows"]
    shard.now += timedelta(milliseconds=151)
    shard.feed(slice_of(NOON + timedelta(milliseconds=251)))
    assert shard.after(0) == ["WalletRows"]
    shard.now += timedelta(milliseconds=40)
    shard.feed(slice_of(NOON + timedelta(milliseconds=291)))
    assert shard.after(99) == []
    assert shard.after(1) == ["WalletRows"]


def test_what_an_idle_source_says_is_no_backlog() -> None:
    shard = Clocked()
    shard.feed(slice_of(NOON))
    shard.feed(account_slice_of(NOON - timedelta(minutes=1)))
    assert shard.logic._behind == timedelta()


def test_what_sending_costs_is_measured_by_the_clock() -> None:
    shard = Clocked()
    shard.feed(slice_of(NOON))
    ticks = iter(range(10))
    shard.logic._now = lambda: NOON + timedelta(seconds=1, milliseconds=30 * next(ticks))
    assert [type(item).__name__ for item in shard.logic.on_notify()[0]] == ["WalletRows"]
    assert shard.logic._wallet_cost == timedelta(milliseconds=30)


def test_the_step_sends_each_kind_on_its_own_stream() -> None:
    wallets: list[tuple[str, list[WalletRow]]] = []
    charges: list[tuple[str, pa.RecordBatch]] = []
    alerts: list[tuple[str, list[WalletAlert]]] = []
    rejects: list[tuple[str, Reject]] = []
    flow = Dataflow("test")
    usage = op.input("usage", flow, TestingSource([("000", slice_of(NOON))]))
    bad = account_slice_of(NOON, account_event("invoice_paid", at=NOON))
    accounts = op.input("accounts", flow, TestingSource([("000", bad)]))
    out = bill("bill", usage, accounts, config=CONFIG, now=lambda: NOON)
    op.output("wallets", out.wallets, TestingSink(wallets))
    op.output("charges", out.charges, TestingSink(charges))
    op.output("alerts", out.alerts, TestingSink(alerts))
    op.output("rejects", out.rejects, TestingSink(rejects))
    run_main(flow)  # type: ignore[no-untyped-call]
    ((_, (row,)),) = wallets
    assert (row.usage, row.available) == (Decimal("8.33"), Decimal("-8.33"))
    assert [one["meter_id"] for _, rows in charges for one in rows.to_pylist()] == ["", "stored", "tokens"]
    assert [alert.id for _, found in alerts for alert in found] == ["acme/cust_1/USD/spend:6/up/1"]
    assert [reject.reason for _, reject in rejects] == [Reason.ACCOUNT_EVENT_IMPOSSIBLE]
