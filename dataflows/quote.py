"""What a plan would cost for one billing period's usage: `meterline quote`.

plan, quantities by meter -> `Quote`: a line a charge of the plan, used or not, as in `usage_charges`.
The flow prices with the same functions (`schemas.plans.PlanCharge.charge`, `schemas.money.round_money`).
No state and no store: the catalog is all that it reads. A whole period on one plan is quoted; a change of
plan in mid-period makes two segments, each a quote of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal, assert_never

from pydantic import TypeAdapter, ValidationError

from dataflows.catalogs import read_catalog
from dataflows.exits import UserError
from dataflows.reports import print_json, print_table, quantity_text
from schemas.catalog import Catalog
from schemas.explain import did_you_mean, explain, shown
from schemas.money import NonNegative, exact_sum, round_money
from schemas.periods import BillingPeriod
from schemas.plans import Plan
from schemas.prices import Flat, Graduated, Package, PerUnit, Price, TierCharge, Volume

COLUMNS: dict[str, Literal["left", "right"]] = {
    "charge": "left",
    "price": "left",
    "quantity": "right",
    "free units": "right",
    "unrounded": "right",
    "amount": "right",
}
FEE = "(fee)"
"""How the table names a charge without a meter."""

_QUANTITY: TypeAdapter[Decimal] = TypeAdapter(NonNegative)


@dataclass(frozen=True, slots=True)
class QuotedCharge:
    """One charge of the plan; `meter_id` "" is the plan's own fee."""

    meter_id: str
    model: str
    quantity: Decimal
    free_units: Decimal
    """Of the quantity; the rest is priced."""
    amount_unrounded: Decimal
    amount: Decimal
    """Owed: rounded to the currency's precision."""
    tiers: tuple[TierCharge, ...]


@dataclass(frozen=True, slots=True)
class Quote:
    """What a billing period costs: `total` is the sum of the charges, each rounded before."""

    plan_id: str
    currency: str
    billing_period: BillingPeriod
    charges: tuple[QuotedCharge, ...]
    total: Decimal


def quote(plan: Plan, quantities: Mapping[str, Decimal]) -> Quote:
    """Price these quantities, by meter; a meter that is not among them was not used."""
    charges = []
    for meter_id, charge in plan.charges_by_meter.items():
        quantity = quantities.get(meter_id, Decimal(0))
        priced = charge.charge(quantity)
        quoted = QuotedCharge(
            meter_id,
            charge.price.model,
            quantity,
            min(charge.free_units, quantity),
            priced.amount,
            round_money(priced.amount, plan.currency),
            priced.tiers,
        )
        charges.append(quoted)
    total = exact_sum(charge.amount for charge in charges)
    return Quote(plan.id, plan.currency, plan.billing_period, tuple(charges), total)


def print_quote(file: Path, plan_id: str, usage: Sequence[str], *, as_json: bool) -> None:
    """Print what a plan of a catalog file asks for `METER=QUANTITY` texts; UserError names what is wrong."""
    catalog = read_catalog(file)
    plan = catalog.plans_by_id.get(plan_id)
    if plan is None:
        hint = did_you_mean(plan_id, catalog.plans_by_id)
        raise UserError(f"--plan {shown(plan_id)} is not a plan of {file}{hint}")
    quoted = quote(plan, read_quantities(catalog, plan, usage))
    if as_json:
        print_json(asdict(quoted))
        return
    title = f"{quoted.plan_id}, one {quoted.billing_period} period, in {quoted.currency}"
    last = ("total", "", "", "", "", f"{quoted.total:f}")
    print_table(title, COLUMNS, [*_rows(plan, quoted), last], total=1)


def read_quantities(catalog: Catalog, plan: Plan, usage: Sequence[str]) -> dict[str, Decimal]:
    """By meter; raises UserError with all that is wrong with the texts.

    A meter that the plan does not price is refused: its part of the answer would be a 0 that nobody decided.
    """
    quantities: dict[str, Decimal] = {}
    problems = []
    for text in usage:
        meter_id, equals, number = text.rpartition("=")
        problem = _meter_problem(catalog, plan, meter_id) if equals else "must be METER=QUANTITY"
        if not problem and meter_id in quantities:
            problem = "is the second quantity of its meter"
        if not problem:
            try:
                quantities[meter_id] = _QUANTITY.validate_python(number)
            except ValidationError as error:
                problem = explain(error.errors(include_url=False)[0], ())[1]
        if problem:
            problems.append(f"--usage {shown(text)}: {problem}")
    if problems:
        raise UserError("; ".join(problems))
    return quantities


def _meter_problem(catalog: Catalog, plan: Plan, meter_id: str) -> str:
    if meter_id not in catalog.meters_by_id:
        return f"{shown(meter_id)} is not a meter{did_you_mean(meter_id, catalog.meters_by_id)}"
    if meter_id not in plan.charges_by_meter:
        priced = ", ".join(name for name in plan.charges_by_meter if name) or "none"
        return f"plan {plan.id} has no price for {shown(meter_id)}; meters that it prices: {priced}"
    return ""


def _rows(plan: Plan, quoted: Quote) -> Iterator[tuple[object, ...]]:
    for charge in quoted.charges:
        price = plan.charges_by_meter[charge.meter_id].price
        yield (
            charge.meter_id or FEE,
            _price_text(price),
            charge.quantity if charge.meter_id else "",
            charge.free_units or "",
            charge.amount_unrounded,
            f"{charge.amount:f}",
        )
        for tier in charge.tiers:
            bound = "without end" if tier.up_to is None else f"up to {quantity_text(tier.up_to)}"
            flat = f" + {quantity_text(tier.flat_amount)}" if tier.flat_amount else ""
            unit = f"{quantity_text(tier.unit_amount)} a unit"
            yield f"  {bound}", f"  {unit}{flat}", tier.quantity, "", tier.amount, ""


def _price_text(price: Price) -> str:
    match price:
        case Flat():
            return f"{quantity_text(price.amount)} a period"
        case PerUnit():
            return f"{quantity_text(price.unit_amount)} a unit"
        case Package():
            return f"{quantity_text(price.amount)} per {quantity_text(price.size)}"
        case Graduated() | Volume():
            return price.model
        case _:
            assert_never(price)
