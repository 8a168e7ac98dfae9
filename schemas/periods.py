"""Billing periods: the calendar of a plan, or of one subscription by its anchor.

instant, `Schedule` -> the `Period` that contains it, `[start_ms, end_ms)`. Periods tile all time, before the
anchor too. A boundary is a wall-clock time in the schedule's zone, so that a day has 23, 24 or 25 hours.

Without an anchor periods are the calendar's, from local midnight: days, weeks from Monday, months, quarters
from January, years. With one they begin at its day and time of day; in a month without that day, on its last.
Each is counted from the anchor itself, so that 31 January gives 28 February and then 31 March.

Boundaries are whole minutes, and an anchor is cut to its minute: the stream keeps usage by the minute, which
must belong to one period as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

from dateutil.relativedelta import relativedelta

MINUTE_MS = 60_000
CACHED_MINUTES = 65_536
"""Of (schedule, minute) pairs; past it the least recently used one is computed again (about 10 us)."""


class BillingPeriod(StrEnum):
    """How often a bill is made."""

    DAILY = "DAILY"
    WEEKLY = "WEEKLY"
    MONTHLY = "MONTHLY"
    QUARTERLY = "QUARTERLY"
    ANNUAL = "ANNUAL"


_STEP_DAYS = {BillingPeriod.DAILY: 1, BillingPeriod.WEEKLY: 7}
_STEP_MONTHS = {BillingPeriod.MONTHLY: 1, BillingPeriod.QUARTERLY: 3, BillingPeriod.ANNUAL: 12}
_CALENDAR_START = datetime(1970, 1, 1)  # noqa: DTZ001  # a wall-clock time, in whichever zone
_CALENDAR_MONDAY = datetime(1969, 12, 29)  # noqa: DTZ001  # as above


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which billing periods there are. `anchor` is aware; it is kept in UTC, cut to its minute."""

    billing_period: BillingPeriod
    timezone: str = "UTC"
    anchor: datetime | None = None

    def __post_init__(self) -> None:
        if self.anchor is None:
            return
        if self.anchor.tzinfo is None:
            raise ValueError(f"an anchor needs a time zone: {self.anchor.isoformat()}")
        minute = self.anchor.astimezone(UTC).replace(second=0, microsecond=0)
        object.__setattr__(self, "anchor", minute)


@dataclass(frozen=True, slots=True)
class Period:
    """Milliseconds since 1970, start inclusive, end exclusive; index 0 starts at the anchor or in 1970."""

    start_ms: int
    end_ms: int
    index: int

    def __contains__(self, at_ms: int) -> bool:
        return self.start_ms <= at_ms < self.end_ms


def period_containing(at_ms: int, schedule: Schedule) -> Period:
    """The one period of the schedule with `start_ms <= at_ms < end_ms`.

    `OverflowError` or `ValueError` outside the years 1 to 9999.
    """
    return _period_of_minute(schedule, at_ms // MINUTE_MS)  # exact, as boundaries are whole minutes


def period_at(schedule: Schedule, index: int) -> Period:
    """The period with this index; the one after `period` is `period_at(schedule, period.index + 1)`.

    Where a zone skipped a whole day (Samoa, 30 December 2011) that daily period is empty.
    """
    return Period(_boundary_ms(schedule, index), _boundary_ms(schedule, index + 1), index)


@lru_cache(maxsize=CACHED_MINUTES)
def _period_of_minute(schedule: Schedule, minute: int) -> Period:
    at_ms = minute * MINUTE_MS
    at = datetime.fromtimestamp(at_ms // 1000, ZoneInfo(schedule.timezone)).replace(tzinfo=None)
    index = _index_near(at, schedule)
    # A clamped day, the anchor's time of day or a skipped hour can put it off by one.
    while at_ms < _boundary_ms(schedule, index):
        index -= 1
    while at_ms >= _boundary_ms(schedule, index + 1):
        index += 1
    return period_at(schedule, index)


def _origin(schedule: Schedule) -> datetime:
    """Where period 0 starts, as a wall-clock time."""
    if schedule.anchor is not None:
        return schedule.anchor.astimezone(ZoneInfo(schedule.timezone)).replace(tzinfo=None)
    return _CALENDAR_MONDAY if schedule.billing_period is BillingPeriod.WEEKLY else _CALENDAR_START


def _index_near(at: datetime, schedule: Schedule) -> int:
    origin = _origin(schedule)
    if days := _STEP_DAYS.get(schedule.billing_period):
        return (at - origin).days // days
    months = (at.year - origin.year) * 12 + at.month - origin.month
    return months // _STEP_MONTHS[schedule.billing_period]


@lru_cache(maxsize=CACHED_MINUTES)
def _boundary_ms(schedule: Schedule, index: int) -> int:
    if index == 0 and schedule.anchor is not None:
        return int(schedule.anchor.timestamp()) * 1000  # its wall-clock time may come twice
    if days := _STEP_DAYS.get(schedule.billing_period):
        step = relativedelta(days=days * index)
    else:
        step = relativedelta(months=_STEP_MONTHS[schedule.billing_period] * index)
    # A time that comes twice is the first of both; one that is skipped is as long after the gap's start.
    start = (_origin(schedule) + step).replace(tzinfo=ZoneInfo(schedule.timezone), fold=0)
    start_s = int(start.timestamp())
    return start_s // 60 * 60_000  # zones once had offsets with seconds
