"""Thresholds: a table of crossings, and alerts through the whole flow against the oracle.

Peers' vectors are in tests/schemas/conformance_alerts.py.
"""

from __future__ import annotations

import json
import random
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.account_state import AccountState, Terms
from operators.ledger import Ledger
from operators.thresholds import CROSSINGS_MAX, judge
from schemas.catalog import load_catalog
from schemas.thresholds import Threshold
from schemas.wallets import WalletAlert, WalletRow
from tests.builders import catalog, rfc3339
from tests.operators.pipeline import Pipeline
from tests.operators.stories import BEGIN, CATALOG_YAML, batch, steps, story_of
from tests.oracle import LogRecord, Rules, expected

NOW_MS = 1_795_426_200_000


class Account:
    """An account whose wallet is what the test says."""

    def __init__(self, *thresholds: tuple[str, str, str]) -> None:
        self.ledger = Ledger(catalog(), AccountState("acme", "cust_1"))
        self.set(*thresholds)

    def set(self, *thresholds: tuple[str, str, str]) -> None:
        """(kind, "amount" or "percent", level)."""
        found = []
        for kind, measure, level in thresholds:
            name = Threshold.model_validate({"kind": kind, measure: level}).name
            values = {"amount": None, "percent": None, measure: Decimal(level)}
            found.append(Terms(name, kind, values["amount"], values["percent"]))
        self.ledger.state.thresholds["USD"] = found

    def judge(self, available: str = "0", usage: str = "0", credits_: str = "0") -> list[WalletAlert]:
        self.ledger.state.credits["USD"] = Decimal(credits_)
        zero = Decimal(0)
        row = WalletRow("acme", "cust_1", "USD", zero, zero, Decimal(usage), Decimal(available), 1, NOW_MS)
        return judge(self.ledger, [row], NOW_MS)


def told(alerts: list[WalletAlert]) -> list[str]:
    return [alert.id.removeprefix("acme/cust_1/USD/") for alert in alerts]


LOW, SPEND = ("low_balance", "amount", "10"), ("spend", "amount", "10")


@pytest.mark.parametrize(
    ("threshold", "values", "alerts"),
    [
        (LOW, ["20", "10.01", "10"], ["low_balance:10/down/1"]),
        (LOW, ["20", "10", "10.01"], ["low_balance:10/down/1", "low_balance:10/up/2"]),
        (LOW, ["20", "5", "10"], ["low_balance:10/down/1"]),
        (LOW, ["20", "5", "20", "5"], [f"low_balance:10/{one}" for one in ("down/1", "up/2", "down/3")]),
        (LOW, ["20"], []),  # up from 0, but nobody was told that it was low
        (("low_balance", "amount", "-5"), ["-4", "-5"], ["low_balance:-5/down/1"]),
        (SPEND, ["9.99", "10"], ["spend:10/up/1"]),
        (SPEND, ["10", "11", "10", "12"], ["spend:10/up/1"]),
        (SPEND, ["10", "0", "15"], ["spend:10/up/1", "spend:10/up/2"]),
    ],
)  # fmt: skip
def test_each_crossing_is_told_once(
    threshold: tuple[str, str, str], values: list[str], alerts: list[str]
) -> None:
    account = Account(threshold)
    found = []
    for value in values:
        level = {"available": value} if threshold[0] == "low_balance" else {"usage": value}
        found += told(account.judge(**level))
        assert account.judge(**level) == []
    assert found == alerts


def test_a_percentage_is_of_the_credits_after_the_last_grant() -> None:
    account = Account(("low_balance", "percent", "20"), ("spend", "percent", "110"))
    assert account.judge(available="-1", usage="1") == []  # no credit: nothing to be said
    assert account.judge(available="50", usage="50", credits_="50") == []
    assert told(account.judge(available="10", usage="55", credits_="50")) == [
        "low_balance:20pct/down/1",
        "spend:110pct/up/1",
    ]
    assert account.judge(available="9", usage="56", credits_="50") == []
    (up,) = account.judge(available="30", usage="30", credits_="100")
    assert (up.threshold_id, up.direction) == ("low_balance:20pct", "up")
    assert [up.threshold, up.value_before, up.value] == [20, 9, 30]


def test_a_threshold_that_is_set_or_raised_says_nothing_by_itself() -> None:
    account = Account(LOW)
    account.judge(available="20")
    account.set(LOW, ("low_balance", "amount", "30"), ("spend", "amount", "5"))
    assert account.judge(available="19") == []
    assert told(account.judge(available="31")) == []
    assert told(account.judge(available="30")) == ["low_balance:30/down/1"]
    account.set()
    assert account.judge(available="0") == []
    assert account.ledger.state.judged == {}


def test_the_plan_of_today_has_thresholds_in_its_currency_and_the_account_replaces_them() -> None:
    text = CATALOG_YAML.replace(
        "  - id: starter\n", "  - id: starter\n    thresholds: [{kind: spend, amount: 4, id: warn}]\n"
    )
    ledger = Ledger(load_catalog(text), AccountState("acme", "cust_1"))
    row = WalletRow("acme", "cust_1", "USD", Decimal(0), Decimal(0), Decimal(4), Decimal(-4), 1, NOW_MS)
    (alert,) = judge(ledger, [row], NOW_MS)
    assert alert.id == "acme/cust_1/USD/warn/up/1"
    ledger.state.judged.clear()
    ledger.state.thresholds["USD"] = [Terms("warn", "spend", Decimal(5), None)]
    assert judge(ledger, [row], NOW_MS) == []


def test_counts_of_crossings_are_limited() -> None:
    account = Account()
    for level in range(1, CROSSINGS_MAX + 3):
        account.set(("spend", "amount", str(level)))
        account.judge(usage="0")
        assert told(account.judge(usage=str(level))) == [f"spend:{level}/up/1"]
    assert len(account.ledger.state.crossings) == CROSSINGS_MAX
    assert "USD/spend:1" not in account.ledger.state.crossings


def set_thresholds(now_ms: int) -> LogRecord:
    at = rfc3339(BEGIN)
    event = {
        "id": "thresholds",
        "tenant_id": "t",
        "external_customer_id": "c1",
        "timestamp": at,
        "type": "thresholds_set",
        "currency": "USD",
        "thresholds": [
            {"kind": "low_balance", "amount": "5"},
            {"kind": "low_balance", "amount": "-3"},
            {"kind": "spend", "amount": "6"},
        ],
    }
    return LogRecord("account-events", 0, 0, now_ms, b"k", json.dumps(event).encode())


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(0, 2**32))
def test_alerts_are_the_crossings_of_the_oracles_wallets_and_survive_crashes(
    drawn: list[tuple[int, str, dict[str, Any]]], seed: int
) -> None:
    """Wallets are flushed after each record; the oracle judges the records so far."""
    story, chance = story_of(drawn), random.Random(seed)
    first = set_thresholds(round(BEGIN.timestamp() * 1000))
    records = sorted(story.records, key=lambda record: record.append_ms)
    moved = [
        LogRecord(r.topic, 0, r.offset + (r.topic == "account-events"), r.append_ms, r.key, r.value)
        for r in records
    ]
    pipeline = Pipeline(load_catalog(CATALOG_YAML), BEGIN, shards=2)
    wanted: list[tuple[str, str, str]] = []
    available = usage = Decimal(0)
    low: set[int] = set()
    for index, record in enumerate([first, *moved]):
        if chance.random() < 0.2:
            pipeline.resume(pipeline.snapshot())
        pipeline.now = BEGIN + timedelta(milliseconds=record.append_ms - first.append_ms)
        polls = (("usage-events", pipeline.poll), ("account-events", pipeline.poll_accounts))
        for topic, poll in polls:
            poll(batch([record] if record.topic == topic else [], topic, record.append_ms))
        for _, _, bill in pipeline._shard.values():
            pipeline._store_bills(bill._wallets(pipeline.now))
        now = Rules(now=pipeline.now)
        wallet = expected([first, *moved][: index + 1], CATALOG_YAML, now).wallets["t", "c1", "USD"]
        for level in (5, -3):
            if available > level >= wallet.available:
                wanted.append(("low_balance", "down", str(level)))
                low.add(level)
            if available <= level < wallet.available and level in low:
                wanted.append(("low_balance", "up", str(level)))
        if usage < 6 <= wallet.usage:
            wanted.append(("spend", "up", "6"))
        available, usage = wallet.available, wallet.usage
    alerts = pipeline.drain().alerts.values()
    assert [(alert.kind, alert.direction, str(alert.threshold)) for alert in alerts] == wanted
