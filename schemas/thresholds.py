"""A threshold is a level of a wallet that somebody wants to hear of: of a plan, or of one account.

`low_balance` looks at what is available, `spend` at usage that is not invoiced yet. The level is an amount,
or a percentage of the customer's credits: what all credits together were worth just after the last one was
granted. Without a credit a percentage means nothing, and nothing is said. The rules: operators/thresholds.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from schemas.meters import Id
from schemas.money import Number, decimal_text

THRESHOLDS_MAX = 20
"""Of one plan, or of one account in one currency."""


class ThresholdKind(StrEnum):
    """What of a wallet is compared."""

    LOW_BALANCE = "low_balance"
    SPEND = "spend"


class Threshold(BaseModel):
    """One level, inclusive: a balance is low at exactly the amount, and a spend is reached."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ThresholdKind
    amount: Number | None = None
    """May be negative for a balance, as a wallet may be."""
    percent: Annotated[Number, Field(gt=0)] | None = None
    id: Id = ""
    """Without one, what it says: `low_balance:10`, `spend:80pct`."""

    @model_validator(mode="before")
    @classmethod
    def _name(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("id") in {None, ""}:
            value = {name: one for name, one in value.items() if name != "id"}
        return value

    @model_validator(mode="after")
    def _check_level(self) -> Self:
        if (self.amount is None) == (self.percent is None):
            raise ValueError("must have an amount or a percent, and not both")
        if self.kind is ThresholdKind.SPEND and self.amount is not None and self.amount <= 0:
            raise ValueError("a spend's amount must be above 0")
        return self

    @property
    def name(self) -> str:
        """The id, or the one that is derived."""
        if self.id:
            return self.id
        level = f"{decimal_text(self.percent)}pct" if self.percent is not None else None
        return f"{self.kind}:{level or decimal_text(self.amount or Decimal(0))}"


def _check_names(thresholds: Sequence[Threshold]) -> Sequence[Threshold]:
    names = [threshold.name for threshold in thresholds]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two thresholds are {twice!r}")
    return thresholds


Thresholds = Annotated[tuple[Threshold, ...], Field(max_length=THRESHOLDS_MAX), AfterValidator(_check_names)]
"""Thresholds with ids of their own."""
