"""What our prices, rounding and calendar make of a peer's test vector: one function a kind, input -> answer.

An answer has the keys of the vector's `expected` that we have a notion of. What a case asks beyond that
raises `OutOfScope`. `test_conformance.py` has the table of kinds and compares answers with vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from schemas.money import EXACT, decimal_text, round_money
from schemas.periods import BillingPeriod, Schedule, period_at, period_containing
from schemas.plans import PlanCharge
from schemas.prices import Charge, Price
from tests.builders import at_ms, meter, price

Case = dict[str, Any]
ZERO = Decimal(0)


class OutOfScope(Exception):  # noqa: N818  # not an error: a verdict on a vector
    """What the case is about, which we don't have."""


def refuse(case: Case, *names: str) -> None:
    for name in names:
        if name in case:
            raise OutOfScope(name)


# Prices


def flexprice_price(spec: Case) -> Price:
    if spec["billing_model"] == "FLAT_FEE":  # their name for an amount per unit
        return price("per_unit", unit_amount=spec["amount"])
    if spec["billing_model"] == "PACKAGE":
        package = spec["transform_quantity"]
        if package["round"] != "up":
            raise OutOfScope("packages that are billed when full")
        return price("package", amount=spec["amount"], size=package["divide_by"])
    model = {"SLAB": "graduated", "VOLUME": "volume"}[spec["tier_mode"]]
    tiers = [(tier["up_to"], tier["unit_amount"], tier["flat_amount"] or 0) for tier in spec["tiers"]]
    return price(model, tiers=tiers)


def price_cost(case: Case) -> Case:
    ours = flexprice_price(case["price"])
    charge = ours.charge(Decimal(case["quantity"]))
    answer: Case = {"cost": charge.amount}
    if ours.model == "volume":
        (tier,) = charge.tiers
        bounds = [one.up_to for one in ours.tiers]
        answer |= {"tier_unit_amount": tier.unit_amount, "selected_tier_index": bounds.index(tier.up_to)}
    return answer


def bucketed_cost(case: Case) -> Case:
    ours = flexprice_price(case["price"])
    return {
        "cost": round_money(
            total(ours.charge(Decimal(value)).amount for value in case["bucket_values"]),
            case["price"]["currency"].upper(),
        )
    }


def entitled_usage(case: Case) -> Case:
    usage = ZERO
    for line in case["charges"]:
        entitlement = line.get("entitlement", {"enabled": False})
        limit = entitlement["usage_limit"] if entitlement["enabled"] else 0
        if limit is not None:  # a meter that is free has no charge in the plan
            charge = PlanCharge(meter="m", price=flexprice_price(line["price"]), free_units=limit)
            usage += round_money(charge.charge(Decimal(line["quantity"])).amount, "USD")
    return {"current_period_usage": usage, "real_time_balance": Decimal(case["balance"]) - usage}


def ranges_charge(model: str, case: Case) -> Case:
    refuse(case, "full_units")
    tiers = [(up_to, unit, flat) for _, up_to, unit, flat in case["ranges"]]
    charge = price(model, tiers=tiers).charge(Decimal(case["units"]))
    return {"amount": charge.amount, "tiers": [[tier.quantity, tier.amount] for tier in charge.tiers]}


def openmeter_charge(ours: Price, case: Case) -> Case:
    """Theirs bills increments: the part from `pre_qty` on. Ours is the difference of two totals."""
    refuse(case, "min_spend", "max_spend", "percent_discount")
    before = Decimal(case.get("pre_qty", 0))
    after: Charge = ours.charge(before + Decimal(case["qty"]))
    return {"amount": after.amount - ours.charge(before).amount}


def openmeter_tiers(model: str, case: Case) -> Case:
    tiers = [(up_to, unit, flat) for up_to, flat, unit in case["tiers"]]
    return openmeter_charge(price(model, tiers=tiers), case)


def openmeter_unit(case: Case) -> Case:
    if "divide_by" in case:
        return openmeter_charge(price("package", amount=case["unit_price"], size=case["divide_by"]), case)
    return openmeter_charge(price(unit_amount=case["unit_price"]), case)


def openmeter_package(case: Case) -> Case:
    return openmeter_charge(price("package", amount=case["amount"], size=case["size"]), case)


def standard_charge(case: Case) -> Case:
    return {"amount": price(unit_amount=case["unit_price"]).charge(Decimal(case["units"])).amount}


def package_charge(case: Case) -> Case:
    ours = price("package", amount=case["amount"], size=case["package_size"])
    charge = PlanCharge(meter="m", price=ours, free_units=case["free_units"])
    return {"amount": charge.charge(Decimal(case["units"])).amount}


# Money


def currency_round(case: Case) -> Case:
    return {"rounded": round_money(Decimal(case["amount"]), case["currency"].upper())}


def charge_total(case: Case) -> Case:
    return {"total": total(round_money(Decimal(line), "USD") for line in case["line_amounts"])}


def exact_sum(case: Case) -> Case:
    return {"true": total(Decimal(value) for value in case["values"])}


def total(amounts: Iterable[Decimal]) -> Decimal:
    result = ZERO
    for amount in amounts:
        result = EXACT.add(result, amount)
    return result


# Calendar


def next_billing_date(case: Case) -> Case:
    refuse(case, "subscription_end")
    schedule = Schedule(
        BillingPeriod(case["period"]), case["timezone"], datetime.fromisoformat(case["anchor"])
    )
    return {"next": rfc3339(period_containing(at_ms(case["period_start"]), schedule).end_ms)}


def month_starts(case: Case) -> Case:
    schedule = Schedule(BillingPeriod.MONTHLY, "UTC", datetime.fromisoformat(case["anchor"]))
    period = period_containing(at_ms(case["start"]), schedule)
    starts = []
    while period.start_ms < at_ms(case["end"]):
        starts.append(rfc3339(period.start_ms))
        period = period_at(schedule, period.index + 1)
    return {"starts": starts}


def bucket_starts(case: Case) -> Case:
    step_ms = meter(window={"HOUR": "1h"}[case["size"]]).window_s * 1000
    first = at_ms(case["start"]) // step_ms * step_ms
    return {"starts": [rfc3339(at) for at in range(first, at_ms(case["end"]), step_ms)]}


def tumbling(case: Case) -> Case:
    rows: Counter[tuple[str, str]] = Counter()
    for at, value in case["events"]:
        if case["window"] == "DAY":
            day = period_containing(at_ms(at), Schedule(BillingPeriod.DAILY, case.get("tz", "UTC")))
            start, end = day.start_ms, day.end_ms
        else:
            step_ms = meter(window={"MINUTE": "1m"}[case["window"]]).window_s * 1000
            start = at_ms(at) // step_ms * step_ms
            end = start + step_ms
        rows[rfc3339(start), rfc3339(end)] += int(value)
    return {"rows": [[*window, value] for window, value in sorted(rows.items())]}


def rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def plain(value: Any) -> Any:
    """Answers and expectations in one spelling: numbers as their shortest text."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, bool) or value is None:
        return value
    try:
        return decimal_text(Decimal(value))
    except ArithmeticError:
        return value
