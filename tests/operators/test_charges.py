"""Rows of `usage_charges`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np

from operators.account_state import AccountState
from operators.charges import UnsentCharge, charge_rows
from operators.ledger import Ledger
from operators.timeline import Phase
from schemas import arrow
from tests.builders import at_ms
from tests.operators.stories import CATALOG

AT_MS = at_ms("2026-11-10T12:00:00Z")


def ledger_of(tokens: str) -> Ledger:
    ledger = Ledger(CATALOG, AccountState("acme", "cust_1"))
    meter, none = CATALOG.meters_by_id["tokens"], np.empty(0, np.uint64)
    ledger.add_usage(meter, AT_MS, 2, Decimal(tokens), none, is_settled=True)
    ledger.add_usage(CATALOG.meters_by_id["free"], AT_MS, 1, Decimal(0), none, is_settled=True)
    return ledger


def rows_of(ledger: Ledger) -> dict[str, dict[str, object]]:
    rows = charge_rows([UnsentCharge(ledger, usage, 7) for usage in ledger.usages.values()])
    assert rows is not None
    assert rows.schema == arrow.USAGE_CHARGES
    return {row["meter_id"]: row for row in rows.to_pylist()}


def test_a_row_says_what_is_owed_and_why() -> None:
    row = rows_of(ledger_of("14.5"))["tokens"]
    tiers = json.loads(str(row.pop("tiers")))
    assert row == {
        "tenant_id": "acme",
        "external_customer_id": "cust_1",
        "period_start": datetime(2026, 11, 1, tzinfo=UTC),
        "period_end": datetime(2026, 12, 1, tzinfo=UTC),
        "meter_id": "tokens",
        "plan_id": "starter",
        "currency": "USD",
        "events": 2,
        "quantity": Decimal("14.5"),
        "amount_unrounded": Decimal("3.48"),
        "amount": Decimal("3.48"),
        "version": 7,
    }
    assert [(tier["quantity"], tier["amount"]) for tier in tiers] == [("10", "3.33"), ("1.5", "0.15")]


def test_only_what_the_plan_prices_has_a_row_and_a_fee_is_one() -> None:
    rows = rows_of(ledger_of("14.5"))
    assert set(rows) == {"", "tokens", "stored"}
    assert [rows[""][name] for name in ("events", "amount", "tiers")] == [0, Decimal(5), "[]"]
    assert charge_rows([]) is None


def test_a_usage_that_lost_its_segment_is_sent_as_nothing() -> None:
    ledger = ledger_of("14.5")
    usage = ledger.usages[at_ms("2026-11-01T00:00:00Z"), "starter", "tokens"]
    ledger.timeline.add(Phase(usage.start_ms, usage.start_ms, "e", "weekly", None))
    ledger.retime(usage.start_ms)
    row = rows_of(ledger)["tokens"]
    assert [row[name] for name in ("quantity", "amount_unrounded", "amount", "tiers")] == [0, 0, 0, "[]"]
