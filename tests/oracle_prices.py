"""The oracle's calendar and prices: a moment -> the segment it is billed in; a quantity -> what it costs.

Periods are found by walking from boundary to boundary, prices by their definition; see tests/oracle.py.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from tests.oracle_events import TWELVE_DECIMALS

if TYPE_CHECKING:
    from tests.oracle import Reading

MINOR_UNITS = {"JPY": 0, "KRW": 0, "BHD": 3, "KWD": 3, "TND": 3}  # any other: 2
ZERO = Decimal(0)

Json = dict[str, Any]


@dataclass(frozen=True, order=True)
class Phase:
    """From a minute on this plan; None: no subscription."""

    begins: datetime
    at: datetime
    event_id: str
    plan_id: str | None = field(compare=False)
    anchor: datetime | None = field(compare=False)


@dataclass(frozen=True)
class Segment:
    """A stretch of one plan in one billing period."""

    plan_id: str
    start: datetime
    end: datetime
    period_start: datetime
    is_subscribed: bool


def phase_at(phases: list[Phase], at: datetime) -> Phase | None:
    begun = [phase for phase in phases if phase.begins <= at]
    return begun[-1] if begun else None


def segment_at(phases: list[Phase], at: datetime, catalog: Json) -> Segment | None:
    phase = phase_at(phases, at)
    is_subscribed = phase is not None and phase.plan_id is not None
    plan_id = phase.plan_id if phase is not None and is_subscribed else catalog.get("default_plan")
    if plan_id is None:
        return None
    plan = plans_of(catalog)[plan_id]
    anchor = phase.anchor if phase is not None and is_subscribed else None
    kind, zone = plan.get("billing_period", "MONTHLY"), plan.get("timezone", "UTC")
    start, end = period_of(at, kind, zone, anchor)
    later = [one.begins for one in phases if one.begins > at]
    begins = start if phase is None else max(start, phase.begins)
    return Segment(plan_id, begins, min([end, *later]), start, is_subscribed)


def period_of(at: datetime, kind: str, zone: str, anchor: datetime | None) -> tuple[datetime, datetime]:
    """Walk from the boundary that is the anchor, or the calendar's of 2020, to the period around a moment."""
    days = {"DAILY": 1, "WEEKLY": 7}.get(kind)
    number = (at - (anchor or datetime(2020, 1, 1, tzinfo=UTC))).days // (
        days or {"QUARTERLY": 92, "ANNUAL": 366}.get(kind, 31)
    )
    while boundary(number, kind, zone, anchor) > at:
        number -= 1
    while boundary(number + 1, kind, zone, anchor) <= at:
        number += 1
    return boundary(number, kind, zone, anchor), boundary(number + 1, kind, zone, anchor)


@lru_cache(maxsize=100_000)
def boundary(number: int, kind: str, zone: str, anchor: datetime | None) -> datetime:
    """The start of the period `number` periods after the first."""
    first = datetime(2020, 1, 6 if kind == "WEEKLY" else 1)  # noqa: DTZ001  # wall-clock time of the zone
    if anchor is not None:
        minute = anchor.replace(second=0, microsecond=0)
        if number == 0:
            return minute.astimezone(UTC)
        first = minute.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    if kind in ("DAILY", "WEEKLY"):
        wall = first + timedelta(days=number * (1 if kind == "DAILY" else 7))
    else:
        months = (
            first.year * 12 + first.month - 1 + number * {"MONTHLY": 1, "QUARTERLY": 3, "ANNUAL": 12}[kind]
        )
        year, month = months // 12, months % 12 + 1
        wall = first.replace(year=year, month=month, day=min(first.day, calendar.monthrange(year, month)[1]))
    return wall.replace(tzinfo=ZoneInfo(zone), second=0).astimezone(UTC)


def begun_segments(phases: list[Phase], catalog: Json, now: datetime) -> Iterator[Segment]:
    """The subscribed segments that have begun, used or not."""
    for phase in phases:
        at = phase.begins
        while at <= now and phase_at(phases, at) == phase and phase.plan_id is not None:
            segment = segment_at(phases, at, catalog)
            assert segment is not None
            yield segment
            at = segment.end


def quantity_of(kind: str, readings: list[Reading]) -> Decimal:
    total = sum((reading.value for reading in readings), ZERO)
    if kind == "SUM":
        return total
    if kind == "AVG":
        return (total / len(readings)).quantize(TWELVE_DECIMALS, ROUND_HALF_EVEN) if readings else ZERO
    return Decimal(len(readings) if kind == "COUNT" else len({reading.unique for reading in readings}))


def cost(price: Json, quantity: Decimal) -> Decimal:
    """What a quantity costs, unrounded. A price never gives money back."""
    if price["model"] == "flat":
        return Decimal(price["amount"])
    quantity = max(quantity, ZERO)
    if price["model"] == "per_unit":
        return quantity * Decimal(price["unit_amount"])
    if price["model"] == "package":
        return (quantity / Decimal(price["size"])).to_integral_value(ROUND_CEILING) * Decimal(price["amount"])
    below, amount = ZERO, ZERO
    for tier in price["tiers"]:
        top = Decimal("Infinity") if tier["up_to"] is None else Decimal(tier["up_to"])
        unit, flat = Decimal(tier.get("unit_amount", 0)), Decimal(tier.get("flat_amount", 0))
        if price["model"] == "graduated" and quantity > below:
            amount += (min(quantity, top) - below) * unit + flat
        if price["model"] == "volume" and below < quantity <= top:
            amount += quantity * unit + flat
        below = top
    return amount


def round_money(amount: Decimal, currency: str) -> Decimal:
    """Half away from zero, to the currency's precision."""
    return amount.quantize(Decimal(1).scaleb(-MINOR_UNITS.get(currency, 2)), ROUND_HALF_UP)


def plans_of(catalog: Json) -> dict[str, Json]:
    return {plan["id"]: plan for plan in catalog.get("plans") or []}


def meters_of(catalog: Json) -> dict[str, Json]:
    return {meter["id"]: meter for meter in catalog["meters"]}
