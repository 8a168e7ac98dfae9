"""Plans: free units, one charge a meter, and the fee without a meter."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.periods import BillingPeriod, Schedule
from schemas.plans import Plan, PlanCharge
from tests.builders import plan, price

D = Decimal
TIERS = [(10, "2", "1"), (None, "1", "5")]


@pytest.mark.parametrize(
    ("quantity", "amount"),
    [("0", "0"), ("100", "0"), ("100.5", "2"), ("110", "21"), ("111", "27"), ("50", "0"), ("-5", "0")],
)
def test_free_units_enter_no_tier(quantity: str, amount: str) -> None:
    charge = PlanCharge(meter="m", price=price("graduated", tiers=TIERS), free_units=100)
    assert charge.charge(D(quantity)).amount == D(amount)


def test_charges_are_found_by_meter_and_the_fee_by_no_name() -> None:
    fee, calls = {"price": price("flat", amount=5)}, {"meter": "calls", "price": price()}
    both = Plan(id="p", currency="usd", charges=[fee, calls])
    assert both.currency == "USD"
    assert {name: charge.price.model for name, charge in both.charges_by_meter.items()} == {
        "": "flat",
        "calls": "per_unit",
    }


def test_a_plan_knows_whether_it_has_fees() -> None:
    assert plan(charges={"m": price("flat", amount=5)}).has_fees
    assert not plan().has_fees


def test_a_plan_gives_the_schedule_of_its_subscriptions() -> None:
    anchor = datetime(2026, 1, 31, 10, 30, 59, tzinfo=UTC)
    yearly = plan(billing_period="ANNUAL", timezone="Asia/Tokyo")
    assert yearly.schedule() == Schedule(BillingPeriod.ANNUAL, "Asia/Tokyo")
    assert yearly.schedule(anchor).anchor == datetime(2026, 1, 31, 10, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"currency": "XXX"}, "ISO 4217"),
        ({"billing_period": "HOURLY"}, "'DAILY', 'WEEKLY'"),
        *[
            ({"timezone": name}, "IANA")
            for name in ("Mars/Olympus", "", "Europe", "/etc/passwd", "../x", "UTC\0")
        ],
        ({"charges": [{"price": price()}]}, "a per_unit price needs a meter"),
        (
            {"charges": [{"meter": "m", "price": price("flat", amount=1), "free_units": 1}]},
            "mean nothing to a flat",
        ),
        ({"charges": [{"meter": "m", "price": price()}] * 2}, "one charge per meter"),
        ({"charges": [{"price": price("flat", amount=1)}] * 2}, "one without a meter"),
        ({"charges": [{"meter": "m", "price": price(), "free_units": -1}]}, "greater than or equal to 0"),
    ],
)
def test_plans_that_make_no_sense_are_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Plan.model_validate({"id": "p", "currency": "EUR", **fields})
