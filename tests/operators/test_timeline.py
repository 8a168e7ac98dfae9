"""Phases and the segments that follow from them: a table of moments, and the oracle's calendar."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.timeline import BEGINNING_MS, END_MS, Phase, Segment, Timeline
from schemas.catalog import load_catalog
from schemas.usage import MINUTE_MS
from tests.builders import at_ms
from tests.operators.pipeline import utc
from tests.operators.stories import CATALOG, CATALOG_YAML
from tests.oracle import read_catalog
from tests.oracle_prices import Phase as OraclePhase
from tests.oracle_prices import segment_at

ORACLE = read_catalog(CATALOG_YAML)


def ms(day: str) -> int:
    return at_ms(f"2026-{day}:00Z")


def timeline(*phases: tuple[str, str | None, str | None], catalog: Any = CATALOG) -> Timeline:
    """(from, plan, anchor) each."""
    found = Timeline(catalog, [])
    for number, (begins, plan_id, anchor) in enumerate(phases):
        from_ms = ms(begins)
        found.add(Phase(from_ms, from_ms, f"e{number}", plan_id, ms(anchor) if anchor else None))
    return found


def shown(segment: Segment | None) -> tuple[str, str, str, str, bool] | None:
    if segment is None:
        return None
    texts = [f"{utc(at):%m-%dT%H:%M}" for at in (segment.start_ms, segment.end_ms, segment.period_ms)]
    return (segment.plan.id, texts[0], texts[1], texts[2], segment.is_subscribed)


@pytest.mark.parametrize(
    ("at", "segment"),
    [
        ("10-31T23:59", ("starter", "10-01T00:00", "11-01T00:00", "10-01T00:00", False)),
        ("11-10T11:59", ("starter", "11-01T00:00", "11-10T12:00", "11-01T00:00", False)),
        ("11-10T12:00", ("starter", "11-10T12:00", "11-15T06:00", "11-10T12:00", True)),
        ("12-09T00:00", ("weekly", "12-05T12:00", "12-10T12:00", "12-05T12:00", True)),
        ("12-10T12:00", ("starter", "12-10T12:00", "01-01T00:00", "12-01T00:00", False)),
    ],
)
def test_a_segment_is_where_a_phase_meets_a_billing_period(at: str, segment: tuple[object, ...]) -> None:
    found = timeline(
        ("12-10T12:00", None, None),
        ("11-10T12:00", "starter", "11-10T12:00"),
        ("11-15T06:00", "weekly", "11-14T12:00"),
    )
    assert shown(found.segment_at(ms(at))) == segment


def test_of_two_phases_in_one_minute_the_later_event_holds() -> None:
    found = Timeline(CATALOG, [])
    at = ms("11-10T12:00")
    found.add(Phase(at, at + 40_000, "b", "weekly", None))
    found.add(Phase(at, at + 20_000, "a", "daily", None))
    held = found.phase_at(at)
    assert held is not None
    assert held.plan_id == "weekly"
    segment = found.segment_at(at)
    assert segment is not None
    assert (segment.start_ms, segment.plan.id) == (at, "weekly")


def test_without_a_default_plan_or_when_the_plan_is_gone_there_is_no_segment() -> None:
    none = load_catalog(CATALOG_YAML.replace("default_plan: starter", ""))
    found = timeline(("11-10T12:00", "gone", None), ("11-11T12:00", "daily", None), catalog=none)
    assert [found.segment_at(ms(f"11-{day}T12:00")) is None for day in ("09", "10", "11")] == [
        True,
        True,
        False,
    ]
    assert found.phase_at(ms("11-10T11:59")) is None


def test_standing_segments_start_in_the_interval_and_only_on_plans_that_have_such_charges() -> None:
    meters = "meters: [{id: m, event_name: e, aggregation: {type: COUNT}}]\n"
    fee = "charges: [{price: {model: flat, amount: 1}}]"
    plans = "plans: [{id: free, currency: USD}, {id: fee, currency: USD, " + fee + "}]"
    found = timeline(
        ("10-15T00:00", "fee", None), ("12-10T00:00", "free", None), catalog=load_catalog(meters + plans)
    )

    def starts(from_ms: int, until_ms: int) -> list[str]:
        return [f"{utc(one.start_ms):%m-%d}" for one in found.standing(from_ms, until_ms)]

    assert starts(BEGINNING_MS, END_MS) == ["10-15", "11-01", "12-01"]
    assert starts(ms("10-15T00:01"), ms("12-01T00:00")) == ["11-01"]
    assert starts(ms("11-01T00:00"), ms("12-01T00:01")) == ["11-01", "12-01"]


phases = st.lists(
    st.tuples(
        st.integers(-200, 200),
        st.sampled_from(["starter", "daily", "weekly", None]),
        st.sampled_from([None, "2026-01-31T09:30:00Z", "2026-10-25T00:30:00Z", "2024-02-29T00:00:00Z"]),
    ),
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(phases, st.lists(st.integers(-400, 400), min_size=1, max_size=10))
def test_segments_tile_time_and_are_those_of_the_oracle(
    drawn: list[tuple[int, str | None, str | None]], hours: list[int]
) -> None:
    middle = ms("10-26T00:00")
    ours, theirs = Timeline(CATALOG, []), []
    for number, (hour, plan_id, anchor) in enumerate(drawn):
        at = middle + hour * 60 * MINUTE_MS
        anchored = anchor if plan_id else None
        ours.add(Phase(at, at, f"e{number}", plan_id, at_ms(anchored) if anchored else None))
        instant = datetime.fromisoformat(anchored) if anchored else None
        theirs.append(OraclePhase(utc(at), utc(at), f"e{number}", plan_id, instant))
    theirs.sort()
    for hour in hours:
        at = middle + hour * 61 * MINUTE_MS
        mine, wanted = ours.segment_at(at), segment_at(theirs, utc(at), ORACLE)
        assert mine is not None
        assert wanted is not None
        assert mine.start_ms <= at < mine.end_ms
        assert (mine.plan.id, mine.is_subscribed) == (wanted.plan_id, wanted.is_subscribed)
        bounds = (utc(mine.start_ms), utc(mine.end_ms), utc(mine.period_ms))
        assert bounds == (wanted.start, wanted.end, wanted.period_start)
        for edge in (mine.start_ms, mine.end_ms - 1):
            assert ours.segment_at(edge) == mine
