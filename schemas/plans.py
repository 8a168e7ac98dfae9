"""A plan says what a customer pays: a price per meter, in one currency, per billing period."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from schemas.meters import Id
from schemas.money import EXACT, Currency, NonNegative
from schemas.periods import BillingPeriod, Schedule
from schemas.prices import Charge, Flat, Price
from schemas.thresholds import Thresholds

CHARGES_MAX = 200


def _check_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; not a relative path; a directory such as "Europe"
        raise ValueError('must be an IANA time zone, such as "Europe/Berlin"') from None
    return name


TimeZone = Annotated[str, AfterValidator(_check_timezone)]


class PlanCharge(BaseModel):
    """The price of one meter's quantity, above the free units.

    A `flat` charge may stand without a meter, as the plan's own fee.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    meter: Id | None = None
    price: Price
    free_units: NonNegative = Decimal(0)

    @model_validator(mode="after")
    def _check_charge(self) -> Self:
        if self.meter is None and not isinstance(self.price, Flat):
            raise ValueError(f"a {self.price.model} price needs a meter; only a flat one stands without")
        if self.free_units and isinstance(self.price, Flat):
            raise ValueError("free_units mean nothing to a flat price")
        return self

    def charge(self, quantity: Decimal) -> Charge:
        """What the period's quantity costs; units up to `free_units` are free and enter no tier."""
        return self.price.charge(EXACT.subtract(quantity, self.free_units))


class Plan(BaseModel):
    """Charges by meter, each meter once: (customer, period, meter) is one row of `usage_charges`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Id
    currency: Currency
    billing_period: BillingPeriod = BillingPeriod.MONTHLY
    timezone: TimeZone = "UTC"
    charges: tuple[PlanCharge, ...] = Field(default=(), max_length=CHARGES_MAX)

    thresholds: Thresholds = ()
    """Of every wallet on this plan, in its currency."""

    @field_validator("charges")
    @classmethod
    def _check_charges(cls, charges: tuple[PlanCharge, ...]) -> tuple[PlanCharge, ...]:
        seen: set[str | None] = set()
        problems = []
        for index, charge in enumerate(charges):
            if charge.meter in seen:
                error = PydanticCustomError(
                    "duplicate", "one charge per meter, and one without a meter, in a plan"
                )
                problems.append(InitErrorDetails(type=error, loc=(index, "meter"), input=charge.meter))
            seen.add(charge.meter)
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return charges

    @cached_property
    def charges_by_meter(self) -> dict[str, PlanCharge]:
        """Charges by meter id; "" is the fee without a meter."""
        return {charge.meter or "": charge for charge in self.charges}

    @cached_property
    def has_fees(self) -> bool:
        """Whether something is owed for a period without usage."""
        return any(isinstance(charge.price, Flat) for charge in self.charges)

    def schedule(self, anchor: datetime | None = None) -> Schedule:
        """The billing periods of a subscription to this plan; without an anchor those of the calendar."""
        return Schedule(self.billing_period, self.timezone, anchor)
