"""Rolling windows: which one a reading falls in, what it holds, what is sent when."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from operators.window import WindowLogic
from tests.builders import NOON, meter, usage_event
from tests.operators.window_shard import WindowShard, brief, tokens, usage_rows

SUM = meter("tokens", window="1m", allowed_lateness="1h")


@pytest.mark.parametrize(
    ("window", "at", "start"),
    [
        ("1m", "2026-11-23T12:00:00.000Z", "2026-11-23T12:00:00Z"),
        ("1m", "2026-11-23T12:00:59.999Z", "2026-11-23T12:00:00Z"),
        ("1m", "2026-11-23T12:01:00.000Z", "2026-11-23T12:01:00Z"),
        ("5m", "2026-11-23T11:59:59.999Z", "2026-11-23T11:55:00Z"),
        ("15m", "2026-11-23T11:59:59.999Z", "2026-11-23T11:45:00Z"),
        ("1h", "2026-11-23T17:35:00.000+05:45", "2026-11-23T11:00:00Z"),
        ("1d", "2026-11-23T00:00:00.000Z", "2026-11-23T00:00:00Z"),
        ("1d", "2026-11-22T23:59:59.999Z", "2026-11-22T00:00:00Z"),
        ("1d", "2026-11-23T00:30:00.000+01:00", "2026-11-22T00:00:00Z"),
    ],
)
def test_windows_tumble_in_utc(window: str, at: str, start: str) -> None:
    shard = WindowShard(meter("tokens", window=window, allowed_lateness="2d"))
    assert shard.take(tokens(timestamp=at)) == []
    (row,) = shard.tick()
    assert row["window_start"] == datetime.fromisoformat(start)
    assert row["window_s"] == {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": 86_400}[window]


AGGREGATIONS: list[tuple[str, list[dict[str, Any]], tuple[int, str, int]]] = [
    ("COUNT", [{}, {"v": "x"}, {"v": None}], (3, "0", 0)),
    ("SUM", [{"v": 1}, {"v": "0.1"}, {"v": -3}], (3, "-1.9", 0)),
    ("SUM", [{"v": "999999999999999999.999999999999"}] * 3, (3, "2999999999999999999.999999999997", 0)),
    ("SUM", [{"v": 0}], (1, "0", 0)),
    ("AVG", [{"v": 1}, {"v": 2}, {}], (2, "3", 0)),
    ("COUNT_UNIQUE", [{"v": "a"}, {"v": "a"}, {"v": "b"}, {}, {"v": None}], (3, "0", 2)),
    ("COUNT_UNIQUE", [{"v": 1}, {"v": "1"}, {"v": True}, {"v": ""}], (4, "0", 3)),
]


@pytest.mark.parametrize("polls", [1, 9])
@pytest.mark.parametrize(("type_", "properties", "expected"), AGGREGATIONS)
def test_a_window_holds_its_aggregate(
    type_: str, properties: list[dict[str, Any]], expected: tuple[int, str, int], polls: int
) -> None:
    more: dict[str, Any] = {} if type_ == "COUNT" else {"field": "v"}
    if type_ == "AVG":
        more["on_missing"] = "skip"
    shard = WindowShard(meter("m", event_name="e", type=type_, **more))
    events = [usage_event(found, event_name="e") for found in properties]
    if polls == 1:
        shard.take(*events)
    else:
        for event in events:
            shard.take(event)
    (row,) = shard.tick()
    count, total, uniques = expected
    assert (row["events"], row["total"], row["uniques"], row["version"]) == (
        count,
        Decimal(total),
        uniques,
        count,
    )


def test_windows_are_of_one_tenant_customer_and_meter() -> None:
    calls = meter("calls", type="COUNT", window="1h")
    shard = WindowShard(SUM, calls)
    shard.take(
        tokens(1, external_customer_id="a"),
        tokens(2, external_customer_id="b"),
        tokens(4, external_customer_id="a", tenant_id="other"),
        tokens(8, external_customer_id="a"),
    )
    rows = {(row["tenant_id"], row["external_customer_id"], row["meter_id"]): row for row in shard.tick()}
    assert {place: (row["events"], row["total"]) for place, row in rows.items()} == {
        ("acme", "a", "tokens"): (2, Decimal(9)),
        ("acme", "b", "tokens"): (1, Decimal(2)),
        ("other", "a", "tokens"): (1, Decimal(4)),
        ("acme", "a", "calls"): (2, Decimal(0)),
        ("acme", "b", "calls"): (1, Decimal(0)),
        ("other", "a", "calls"): (1, Decimal(0)),
    }


def test_only_changed_windows_are_sent_again_with_a_higher_version() -> None:
    shard = WindowShard(SUM)
    shard.take(tokens(1, external_customer_id="a"), tokens(2, external_customer_id="b"))
    assert brief(shard.tick()) == [("a", NOON, 1, Decimal(1), 1), ("b", NOON, 1, Decimal(2), 1)]
    shard.take(tokens(5, external_customer_id="b"), tokens(-5, external_customer_id="b"))
    assert brief(shard.tick()) == [("b", NOON, 3, Decimal(2), 3)]
    assert shard.tick() == []


def test_the_version_says_what_was_folded_in_not_how_often_it_was_sent() -> None:
    often, once = WindowShard(SUM, generation=3), WindowShard(SUM, generation=3)
    for value in range(5):
        event = tokens(value)
        once.take(event)
        often.take(event)
        sent = often.tick()
    assert sent == once.tick()
    assert sent[0]["version"] == (3 << 40) + 5


def test_what_changed_is_sent_a_flush_interval_later() -> None:
    shard = WindowShard(SUM)
    assert shard.due is None
    shard.take(tokens())
    due = NOON + timedelta(seconds=1)
    assert shard.due == due
    shard.now += timedelta(seconds=0.5)
    shard.take(tokens())
    assert shard.due == due, "more readings put nothing off"
    assert list(shard.logic.on_notify()[0]) == [], "a timer that fires too early"
    assert brief(shard.tick(0.5)) == [("cust_1", NOON, 2, Decimal(200), 2)]
    assert shard.due is None


def test_a_drain_sends_what_changed_and_keeps_the_state() -> None:
    shard = WindowShard(SUM)
    shard.take(tokens())
    out, is_done = shard.logic.on_eof()
    assert is_done is WindowLogic.RETAIN
    assert brief(usage_rows(list(out))) == [("cust_1", NOON, 1, Decimal(100), 1)]
    again = shard.resumed()
    assert again.due is None
    again.take(tokens())
    assert brief(again.tick()) == [("cust_1", NOON, 2, Decimal(200), 2)]


def test_unsent_windows_survive_a_crash_and_sent_ones_are_not_sent_again() -> None:
    shard = WindowShard(SUM)
    shard.take(tokens(1, external_customer_id="sent"))
    shard.tick()
    shard.take(tokens(2, external_customer_id="folded"))
    shard.logic.snapshot()
    shard.take(tokens(4, external_customer_id="buffered"))
    again = shard.resumed()
    assert again.due == again.now, "at once"
    assert brief(again.tick(0)) == [("buffered", NOON, 1, Decimal(4), 1), ("folded", NOON, 1, Decimal(2), 1)]
    assert again.resumed().due is None
