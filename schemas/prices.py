"""A price turns a period's quantity into an amount: five models, pure functions on Decimal.

quantity -> `Charge(amount, tiers)`, unrounded and exact (`schemas.money.EXACT`). The amount is rounded where
it becomes money owed, not here. A negative quantity, which only adjustments can make, costs what 0 costs:
a price never gives money back; a credit does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from schemas.money import EXACT, NonNegative, Positive, decimal_text

TIERS_MAX = 100
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class TierCharge:
    """One tier's part of a charge: `amount = quantity * unit_amount + flat_amount`."""

    up_to: Decimal | None
    quantity: Decimal
    unit_amount: Decimal
    flat_amount: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Charge:
    """What a quantity costs, unrounded; `tiers` are the tiers entered, empty for models without tiers."""

    amount: Decimal
    tiers: tuple[TierCharge, ...] = ()

    def tiers_json(self) -> str:
        """The breakdown as `usage_charges.tiers` keeps it: a JSON list, numbers as text."""
        names = ("up_to", "quantity", "unit_amount", "flat_amount", "amount")
        rows = [{name: _text(getattr(tier, name)) for name in names} for tier in self.tiers]
        return json.dumps(rows, separators=(",", ":"))


def _text(value: Decimal | None) -> str | None:
    return None if value is None else decimal_text(value)


class _Price(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Flat(_Price):
    """An amount per billing period, whatever the quantity, 0 included."""

    model: Literal["flat"]
    amount: NonNegative

    def charge(self, quantity: Decimal) -> Charge:
        return Charge(self.amount)


class PerUnit(_Price):
    """The quantity times a unit amount."""

    model: Literal["per_unit"]
    unit_amount: NonNegative

    def charge(self, quantity: Decimal) -> Charge:
        return Charge(EXACT.multiply(max(quantity, _ZERO), self.unit_amount))


class Package(_Price):
    """An amount for every package begun: `amount * ceil(quantity / size)`."""

    model: Literal["package"]
    amount: NonNegative
    size: Positive

    def charge(self, quantity: Decimal) -> Charge:
        full, rest = EXACT.divmod(max(quantity, _ZERO), self.size)
        return Charge(EXACT.multiply(EXACT.add(full, int(rest > 0)), self.amount))


class Tier(BaseModel):
    """Quantities up to and including `up_to`, above the tier before; None is without end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    up_to: Positive | None
    unit_amount: NonNegative = _ZERO
    flat_amount: NonNegative = _ZERO

    def charge(self, quantity: Decimal) -> TierCharge:
        """The price of a part of the quantity that is in this tier."""
        amount = EXACT.add(EXACT.multiply(quantity, self.unit_amount), self.flat_amount)
        return TierCharge(self.up_to, quantity, self.unit_amount, self.flat_amount, amount)


class _Tiered(_Price):
    tiers: tuple[Tier, ...] = Field(min_length=1, max_length=TIERS_MAX)

    @field_validator("tiers")
    @classmethod
    def _check_tiers(cls, tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
        if problems := list(_tier_problems(tiers)):
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return tiers


def _tier_problems(tiers: tuple[Tier, ...]) -> Iterator[InitErrorDetails]:
    last = len(tiers) - 1
    below = _ZERO
    for index, tier in enumerate(tiers):
        if tier.up_to is None:
            if index < last:
                yield _problem(
                    index, None, "only the last tier may be null: those after it are never reached"
                )
            continue
        if index == last:
            yield _problem(index, tier.up_to, "the last tier must be null: every quantity needs a price")
        if tier.up_to <= below:
            bound = f"above the tier before, which ends at {decimal_text(below)}" if index else "above 0"
            yield _problem(index, tier.up_to, f"must be {bound}: tiers are in order and don't overlap")
        below = max(below, tier.up_to)


def _problem(index: int, value: Decimal | None, message: str) -> InitErrorDetails:
    shown = None if value is None else decimal_text(value)
    # Braces would be read as a template; the messages have none.
    error = PydanticCustomError("tiers", message)
    return InitErrorDetails(type=error, loc=(index, "up_to"), input=shown)


class Graduated(_Tiered):
    """Each tier's part of the quantity at that tier's price, its flat amount once it is entered."""

    model: Literal["graduated"]

    def charge(self, quantity: Decimal) -> Charge:
        below, parts = _ZERO, []
        for tier in self.tiers:
            if quantity <= below:
                break
            top = quantity if tier.up_to is None else min(quantity, tier.up_to)
            parts.append(tier.charge(EXACT.subtract(top, below)))
            below = top
        amount = _ZERO
        for part in parts:
            amount = EXACT.add(amount, part.amount)
        return Charge(amount, tuple(parts))


class Volume(_Tiered):
    """The whole quantity at the price of the tier that it falls in: the amount can drop past a bound."""

    model: Literal["volume"]

    def charge(self, quantity: Decimal) -> Charge:
        if quantity <= 0:
            return Charge(_ZERO)
        tier = next(tier for tier in self.tiers if tier.up_to is None or quantity <= tier.up_to)
        part = tier.charge(quantity)
        return Charge(part.amount, (part,))


Price = Annotated[Flat | PerUnit | Package | Graduated | Volume, Field(discriminator="model")]
PRICE_MODELS = frozenset({"flat", "per_unit", "package", "graduated", "volume"})
