"""Billing periods: calendars, anchors, clamped months, and days that are not 24 hours long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import DAILY, MONTHLY, WEEKLY, YEARLY, rrule
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.periods import BOUNDARIES_CACHED, BillingPeriod, Period, Schedule, period_at, period_containing
from tests.builders import at_ms

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",  # its clocks went forward at midnight until 2018: such days start at 01:00
    "America/Havana",  # its clocks go back at 01:00 to midnight: such days have it twice
    "Asia/Kathmandu",  # 5:45
    "Australia/Lord_Howe",  # a summer time of half an hour
    "Pacific/Apia",  # had no 30 December 2011
]


def bounds(schedule: Schedule, at: str, count: int = 1) -> list[str]:
    """Starts of `count` periods from the one that contains `at`, and the last end, in the schedule's zone."""
    first = period_containing(at_ms(at), schedule)
    periods = [period_at(schedule, first.index + n) for n in range(count)]
    assert periods[0] == first
    ends = [*(one.start_ms for one in periods), periods[-1].end_ms]
    zone = ZoneInfo(schedule.timezone)
    return [datetime.fromtimestamp(ms / 1000, zone).strftime("%Y-%m-%d %H:%M") for ms in ends]


def anchored(period: BillingPeriod, anchor: str, zone: str = "UTC") -> Schedule:
    return Schedule(period, zone, datetime.fromisoformat(anchor))


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        (BillingPeriod.DAILY, "2026-11-25 00:00", "2026-11-26 00:00"),
        (BillingPeriod.WEEKLY, "2026-11-23 00:00", "2026-11-30 00:00"),  # Mondays
        (BillingPeriod.MONTHLY, "2026-11-01 00:00", "2026-12-01 00:00"),
        (BillingPeriod.QUARTERLY, "2026-10-01 00:00", "2027-01-01 00:00"),
        (BillingPeriod.ANNUAL, "2026-01-01 00:00", "2027-01-01 00:00"),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/New_York"])
def test_without_an_anchor_periods_are_the_calendars_in_the_plans_zone(
    period: BillingPeriod, start: str, end: str, zone: str
) -> None:
    assert bounds(Schedule(period, zone), "2026-11-25T12:00:00Z") == [start, end]


def test_a_period_starts_at_its_first_millisecond_and_ends_before_the_next() -> None:
    november = Schedule(BillingPeriod.MONTHLY)
    start, end = at_ms("2026-11-01T00:00:00Z"), at_ms("2026-12-01T00:00:00Z")
    one = period_containing(start, november)
    assert (one.start_ms, one.end_ms) == (start, end)
    assert period_containing(end - 1, november) == one
    assert period_containing(end, november) == period_at(november, one.index + 1)
    assert start in one
    assert end not in one


def test_a_month_without_the_anchors_day_ends_on_its_last_and_the_next_returns_to_it() -> None:
    assert bounds(anchored(BillingPeriod.MONTHLY, "2026-01-31T00:00:00Z"), "2026-01-31T00:00:00Z", 5) == [
        "2026-01-31 00:00",
        "2026-02-28 00:00",
        "2026-03-31 00:00",
        "2026-04-30 00:00",
        "2026-05-31 00:00",
        "2026-06-30 00:00",
    ]


@pytest.mark.parametrize(
    ("period", "anchor", "starts"),
    [
        (
            BillingPeriod.QUARTERLY,
            "2025-11-30T00:00:00Z",
            ["2025-11-30", "2026-02-28", "2026-05-30", "2026-08-30"],
        ),
        (
            BillingPeriod.ANNUAL,
            "2024-02-29T00:00:00Z",
            ["2024-02-29", "2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"],
        ),
        (BillingPeriod.WEEKLY, "2026-11-25T00:00:00Z", ["2026-11-25", "2026-12-02", "2026-12-09"]),
        (BillingPeriod.DAILY, "2026-02-28T00:00:00Z", ["2026-02-28", "2026-03-01", "2026-03-02"]),
    ],
)
def test_anchored_periods(period: BillingPeriod, anchor: str, starts: list[str]) -> None:
    found = bounds(anchored(period, anchor), anchor, len(starts) - 1)
    assert found == [f"{day} 00:00" for day in starts]


def test_periods_reach_back_before_the_anchor() -> None:
    schedule = anchored(BillingPeriod.MONTHLY, "2026-03-31T12:00:00Z")
    assert bounds(schedule, "2026-02-28T11:59:59Z", 2) == [
        "2026-01-31 12:00",
        "2026-02-28 12:00",
        "2026-03-31 12:00",
    ]
    assert period_containing(at_ms("2026-02-28T11:59:59Z"), schedule).index == -2


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("America/New_York", "2026-03-08", 23),
        ("America/New_York", "2026-11-01", 25),
        ("Australia/Lord_Howe", "2026-10-04", 23.5),
        ("America/Sao_Paulo", "2018-11-04", 23),  # from 01:00, as 00:00 did not happen
        ("America/Havana", "2026-11-01", 25),  # from the first midnight of two
        ("Europe/Berlin", "2026-06-01", 24),
    ],
)
def test_days_are_as_long_as_their_zone_makes_them(zone: str, day: str, hours: float) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=ZoneInfo(zone))
    one = period_containing(round(noon.timestamp() * 1000), Schedule(BillingPeriod.DAILY, zone))
    assert one.end_ms - one.start_ms == hours * HOUR_MS


def test_a_day_that_a_zone_skipped_holds_nothing() -> None:
    samoa = Schedule(BillingPeriod.DAILY, "Pacific/Apia")
    before = period_containing(at_ms("2011-12-30T09:59:59.999Z"), samoa)
    after = period_containing(at_ms("2011-12-30T10:00:00Z"), samoa)
    assert after.index == before.index + 2
    skipped = period_at(samoa, before.index + 1)
    assert skipped.start_ms == skipped.end_ms == after.start_ms == before.end_ms


def test_an_anchor_in_the_hour_that_comes_twice_is_its_own_start() -> None:
    second = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)  # 02:30 in Berlin, the second of both
    schedule = Schedule(BillingPeriod.MONTHLY, "Europe/Berlin", second)
    assert period_at(schedule, 0).start_ms == round(second.timestamp() * 1000)
    assert bounds(schedule, "2026-10-25T01:30:00Z", 2)[1:] == ["2026-11-25 02:30", "2026-12-25 02:30"]


def test_the_hour_that_comes_again_after_a_boundary_belongs_to_the_new_period() -> None:
    schedule = anchored(BillingPeriod.DAILY, "2026-10-01T02:45:00+02:00", "Europe/Berlin")
    again = period_containing(at_ms("2026-10-25T01:30:00Z"), schedule)  # 02:30, after 02:45 was there once
    assert again.start_ms == at_ms("2026-10-25T00:45:00Z")


def test_a_boundary_in_an_hour_that_is_skipped_comes_as_much_later() -> None:
    schedule = anchored(BillingPeriod.MONTHLY, "2026-01-29T02:30:00+01:00", "Europe/Berlin")
    assert bounds(schedule, "2026-03-29T12:00:00Z") == ["2026-03-29 03:30", "2026-04-29 02:30"]


def test_an_anchor_is_cut_to_its_minute() -> None:
    cut, whole = (anchored(BillingPeriod.DAILY, f"2026-11-23T09:30:{s}Z") for s in ("59.999999", "00"))
    assert cut == whole
    assert hash(cut) == hash(whole)
    assert bounds(cut, "2026-11-23T09:30:10Z") == ["2026-11-23 09:30", "2026-11-24 09:30"]


def test_the_zone_of_an_anchor_does_not_matter_but_it_needs_one() -> None:
    east = datetime(2026, 11, 23, 12, tzinfo=timezone(timedelta(hours=3)))
    assert Schedule(BillingPeriod.DAILY, "UTC", east) == Schedule(
        BillingPeriod.DAILY, "UTC", east.astimezone(UTC)
    )
    with pytest.raises(ValueError, match="needs a time zone: 2026-11-23T12:00:00"):
        Schedule(BillingPeriod.DAILY, "UTC", east.replace(tzinfo=None))


INSTANTS = st.integers(at_ms("1975-01-01T00:00:00Z"), at_ms("2100-01-01T00:00:00Z"))
YEAR_2000 = datetime(2000, 1, 1)  # noqa: DTZ001  # hypothesis adds the zone
YEAR_2030 = datetime(2030, 1, 1)  # noqa: DTZ001  # as above
SCHEDULES = st.builds(
    Schedule,
    st.sampled_from(BillingPeriod),
    st.sampled_from(ZONES),
    st.none() | st.datetimes(YEAR_2000, YEAR_2030, timezones=st.just(UTC)),
)


@given(SCHEDULES, INSTANTS)
@example(Schedule(BillingPeriod.DAILY, "Pacific/Apia"), at_ms("2011-12-30T10:00:00Z"))
def test_periods_tile_all_time_on_whole_minutes(schedule: Schedule, at: int) -> None:
    one = period_containing(at, schedule)
    after = period_containing(one.end_ms, schedule)
    before = period_containing(one.start_ms - 1, schedule)
    assert one.start_ms <= at < one.end_ms
    assert before.end_ms == one.start_ms
    assert after.start_ms == one.end_ms
    assert before.index < one.index < after.index
    assert one.start_ms % MINUTE_MS == one.end_ms % MINUTE_MS == 0
    assert one == period_at(schedule, one.index)


FREQUENCIES: dict[BillingPeriod, tuple[Literal[0, 1, 2, 3], int]] = {
    BillingPeriod.DAILY: (DAILY, 1),
    BillingPeriod.WEEKLY: (WEEKLY, 1),
    BillingPeriod.MONTHLY: (MONTHLY, 1),
    BillingPeriod.QUARTERLY: (MONTHLY, 3),
    BillingPeriod.ANNUAL: (YEARLY, 1),
}


@given(st.sampled_from(BillingPeriod), st.datetimes(YEAR_2000, YEAR_2030), st.integers(0, 40))
def test_anchored_periods_agree_with_dateutils_own_recurrences(
    period: BillingPeriod, anchor: datetime, index: int
) -> None:
    anchor = anchor.replace(day=min(anchor.day, 28))  # rrule leaves out months that lack the day
    frequency, interval = FREQUENCIES[period]
    rule = rrule(
        frequency, interval=interval, dtstart=anchor.replace(second=0, microsecond=0), count=index + 2
    )
    start, end = (round(one.replace(tzinfo=UTC).timestamp() * 1000) for one in (rule[index], rule[index + 1]))
    schedule = Schedule(period, "UTC", anchor.replace(tzinfo=UTC))
    assert period_at(schedule, index) == period_containing(start, schedule) == Period(start, end, index)


def test_more_boundaries_than_are_remembered_are_still_right() -> None:
    daily = Schedule(BillingPeriod.DAILY, "Europe/Berlin")
    first = [period_at(daily, index) for index in range(BOUNDARIES_CACHED + 10)]
    assert [period_at(daily, index) for index in range(BOUNDARIES_CACHED + 10)] == first
    assert all(a.end_ms == b.start_ms for a, b in pairwise(first))
