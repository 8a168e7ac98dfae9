"""What a catalog makes of usage: its quantity, and the amount that a plan asks for that. Pure.

(plan, meter) -> a price to call; meter -> how it aggregates. Looked up once a catalog, for all its accounts:
walking from plan to charge to price took as long as pricing, which happens for each usage that changed.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal
from functools import partial
from typing import TypeAlias

from operators.account_state import ZERO
from operators.hyperloglog import UniqueSketch
from schemas.catalog import Catalog
from schemas.meters import AggregationType
from schemas.money import exact_multiply, quantize_quantity
from schemas.plans import PlanCharge
from schemas.prices import Graduated, PerUnit, Volume

Price: TypeAlias = Callable[[Decimal], Decimal]
"""quantity -> what it costs, unrounded."""
Quantity: TypeAlias = Callable[[int, Decimal, UniqueSketch | None], Decimal]
"""readings, their total, their distinct values -> what an aggregation makes of them."""

_WIDE = Context(prec=76)
"""For averages: rounded once more, to 12 decimals, where it is used."""


class Tariff:
    """The prices of a catalog's plans, and the kinds of its meters."""

    def __init__(self, catalog: Catalog) -> None:
        charges = {
            (plan.id, meter_id): charge
            for plan in catalog.plans
            for meter_id, charge in plan.charges_by_meter.items()
        }
        self.prices: dict[tuple[str, str], Price] = {at: _price(charge) for at, charge in charges.items()}
        """By plan and meter; "" is the plan's own fee."""
        self.tiered = frozenset(
            at for at, charge in charges.items() if isinstance(charge.price, Graduated | Volume)
        )
        """Plans and meters whose charges have a breakdown by tiers."""
        kinds = {meter.id: meter.aggregation.type for meter in catalog.meters}
        self.quantities = {name: _QUANTITIES[kind] for name, kind in kinds.items()}
        """By meter."""
        self.unique = frozenset(name for name, kind in kinds.items() if kind is AggregationType.COUNT_UNIQUE)
        self.lasting = frozenset(meter.id for meter in catalog.meters if meter.reset_usage == "NEVER")
        """Meters that never reset."""


def _price(charge: PlanCharge) -> Price:
    # Most charges are these, and most of their pricing would be the `Charge` around the amount.
    if isinstance(charge.price, PerUnit) and not charge.free_units:
        return partial(_per_unit, charge.price.unit_amount)
    return lambda quantity: charge.charge(quantity).amount


def _per_unit(unit_amount: Decimal, quantity: Decimal) -> Decimal:
    """As `schemas.prices.PerUnit.charge`."""
    return exact_multiply(quantity, unit_amount) if quantity > ZERO else ZERO


def _count(events: int, total: Decimal, uniques: UniqueSketch | None) -> Decimal:
    return Decimal(events)


def _sum(events: int, total: Decimal, uniques: UniqueSketch | None) -> Decimal:
    return total


def _average(events: int, total: Decimal, uniques: UniqueSketch | None) -> Decimal:
    return quantize_quantity(_WIDE.divide(total, Decimal(events))) if events else ZERO


def _count_unique(events: int, total: Decimal, uniques: UniqueSketch | None) -> Decimal:
    return Decimal(0 if uniques is None else uniques.count())


_QUANTITIES: dict[AggregationType, Quantity] = {
    AggregationType.COUNT: _count,
    AggregationType.SUM: _sum,
    AggregationType.AVG: _average,
    AggregationType.COUNT_UNIQUE: _count_unique,
}
