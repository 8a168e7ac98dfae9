"""What is too late for its window, and when a window is forgotten."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from tests.builders import NOON, at_ms, meter, usage_event
from tests.operators.batches import NOON_MS, one_slice, token
from tests.operators.window_shard import WindowShard, brief, tokens

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
SUM = meter("tokens", window="1m", allowed_lateness="1h")
CLOSES_MS = NOON_MS + MINUTE_MS + HOUR_MS
"""When the window of NOON takes no more readings."""


@pytest.mark.parametrize("after_ms", [-HOUR_MS, -1, 0, 1, HOUR_MS])
def test_late_is_what_was_appended_after_the_end_and_the_lateness(after_ms: int) -> None:
    shard = WindowShard(SUM)
    late = shard.take(tokens(), append_ms=CLOSES_MS + after_ms)
    assert (len(late), len(shard.tick())) == ((1, 0) if after_ms > 0 else (0, 1))


@pytest.mark.parametrize("after_ms", [0, 1])
def test_a_windows_last_millisecond_closes_with_its_first(after_ms: int) -> None:
    shard = WindowShard(SUM)
    last = tokens(at=NOON + timedelta(seconds=59, milliseconds=999))
    assert len(shard.take(last, append_ms=CLOSES_MS + after_ms)) == after_ms


def test_late_depends_on_the_record_alone() -> None:
    """Not on what was read before or beside it, in however many polls, however long after."""
    first, second, other = tokens(1), tokens(2), tokens(3, at=NOON + timedelta(hours=5))
    appended = [CLOSES_MS, CLOSES_MS + 1, CLOSES_MS + 4 * HOUR_MS]
    whole = WindowShard(SUM)
    late = whole.take(first, second, other, append_ms=appended)
    assert [row["id"] for row in late] == [second["id"]]
    parts = WindowShard(SUM)
    parts.now += timedelta(days=30)
    for event, append_ms in zip((first, second, other), appended, strict=True):
        rows = parts.take(event, append_ms=append_ms)
        assert [row["id"] for row in rows] == ([second["id"]] if event is second else [])
    backwards = WindowShard(SUM)
    for partition, (event, append_ms) in enumerate(
        zip((other, second, first), reversed(appended), strict=True)
    ):
        rows = backwards.take(event, append_ms=append_ms, partition=partition, partitions=3)
        assert [row["id"] for row in rows] == ([second["id"]] if event is second else [])
    assert brief(whole.tick()) == brief(parts.tick()) == brief(backwards.tick())


def test_a_late_reading_says_all_that_its_repair_takes() -> None:
    unique = meter("users", type="COUNT_UNIQUE", window="1h", allowed_lateness="30m")
    shard = WindowShard(SUM, unique)
    good = tokens(1)
    event = usage_event({"tokens": "-2.5", "user_id": 7}, tenant_id="t", external_customer_id="c")
    append_ms = at_ms("2026-11-23T14:00:00.001Z")
    late = shard.take_slices(
        one_slice(shard.meters, [good], NOON_MS),
        one_slice(shard.meters, [event], append_ms, partition=5, offset=9),
    )
    same = {
        "tenant_id": "t",
        "external_customer_id": "c",
        "window_start": NOON,
        "id": event["id"],
        "timestamp": NOON,
        "ingested_at": datetime.fromisoformat("2026-11-23T14:00:00.001Z"),
        "partition": 5,
        "offset": 9,
    }
    assert late == [
        {**same, "meter_id": "tokens", "window_s": 60, "value": Decimal("-2.5"), "token": 0},
        {**same, "meter_id": "users", "window_s": 3600, "value": Decimal(0), "token": token("7")},
    ]
    assert [row["external_customer_id"] for row in shard.tick()] == ["cust_1"]


def test_one_event_may_be_late_for_one_meter_and_not_for_another() -> None:
    shard = WindowShard(SUM, meter("daily", type="COUNT", window="1d"))
    late = shard.take(tokens(), append_ms=CLOSES_MS + 1)
    assert [row["meter_id"] for row in late] == ["tokens"]
    assert [row["meter_id"] for row in shard.tick()] == ["daily"]


def test_late_readings_alone_change_nothing() -> None:
    shard = WindowShard(SUM)
    assert len(shard.take(tokens(), append_ms=CLOSES_MS + 1)) == 1
    assert shard.due is None
    assert len(shard.state.accounts) == 0


def test_a_window_is_forgotten_when_all_its_readings_are_late() -> None:
    shard = WindowShard(SUM)
    shard.take(tokens())
    for _ in range(2):
        shard.hear(CLOSES_MS)
        shard.tick()
        assert len(shard.state.cells) == 1
    shard.hear(CLOSES_MS + 1)
    assert shard.due is not None, "an idle shard forgets too"
    assert shard.tick() == []
    assert len(shard.state.cells) == 0


def test_a_window_is_sent_before_it_is_forgotten() -> None:
    shard = WindowShard(SUM)
    shard.take(tokens())
    shard.hear(CLOSES_MS + HOUR_MS)
    assert brief(shard.tick()) == [("cust_1", NOON, 1, Decimal(100), 1)]
    assert len(shard.state.cells) == 0


def test_a_partition_that_lags_holds_forgetting_back() -> None:
    shard = WindowShard(SUM)
    shard.hear(NOON_MS, partition=1, partitions=2)
    shard.take(tokens(1), partition=0, partitions=2)
    for _ in range(2):
        shard.hear(CLOSES_MS + HOUR_MS, partition=0, partitions=2)
        shard.tick()
    assert shard.take(tokens(2), append_ms=CLOSES_MS, partition=1, partitions=2) == []
    assert brief(shard.tick()) == [("cust_1", NOON, 2, Decimal(3), 2)]
    shard.hear(CLOSES_MS + 1, partition=1, partitions=2)
    shard.tick()
    assert len(shard.state.cells) == 0


def test_nothing_is_forgotten_before_every_partition_was_heard_of() -> None:
    shard = WindowShard(SUM)
    shard.take(tokens(), partition=0, partitions=2)
    shard.hear(CLOSES_MS + HOUR_MS, partition=0, partitions=2)
    shard.tick()
    again = shard.resumed()
    again.hear(CLOSES_MS + HOUR_MS, partition=0, partitions=2)
    again.tick()
    assert len(again.state.cells) == 1
    again.hear(CLOSES_MS + HOUR_MS, partition=1, partitions=2)
    again.tick()
    assert len(again.state.cells) == 0


def test_how_many_windows_are_held_is_told_in_changes() -> None:
    held: list[int] = []
    shard = WindowShard(SUM, on_held=held.append)
    shard.take(*(tokens(at=NOON + timedelta(minutes=number)) for number in range(3)))
    shard.tick()
    WindowShard(SUM, snapshot=shard.logic.snapshot(), on_held=held.append)
    shard.hear(CLOSES_MS + MINUTE_MS + 1)
    shard.tick()
    assert held == [0, 3, 3, -2]


def test_progress_never_goes_back() -> None:
    shard = WindowShard(SUM)
    shard.hear(CLOSES_MS + 1)
    shard.hear(NOON_MS)
    assert shard.state.watermark.at_ms == CLOSES_MS + 1


def test_a_forgotten_window_does_not_begin_anew() -> None:
    """On a CreateTime topic a record may be older than its partition's progress."""
    shard = WindowShard(SUM)
    shard.take(tokens(1))
    shard.tick()
    shard.hear(CLOSES_MS + 1)
    shard.tick()
    assert len(shard.take(tokens(2), append_ms=NOON_MS)) == 1
    assert shard.tick() == []


def test_a_window_that_closes_before_older_ones_is_forgotten_in_its_time() -> None:
    shard = WindowShard(SUM, meter("daily", event_name="d", type="COUNT", window="1d"))
    shard.take(usage_event(event_name="d"))
    shard.hear(NOON_MS)
    shard.tick()
    shard.take(tokens())
    shard.tick()
    assert len(shard.state.cells) == 2
    shard.hear(CLOSES_MS + 1)
    shard.tick()
    assert len(shard.state.cells) == 1, "the day's, which is open until tomorrow"


def test_accounts_are_renumbered_when_most_are_gone() -> None:
    unique = meter("users", type="COUNT_UNIQUE", window="1h")
    shard = WindowShard(meter("tokens", allowed_lateness="2h"), unique)
    hour = timedelta(hours=1)
    shard.take(*(tokens(1, external_customer_id=f"gone_{number}") for number in range(1_200)))
    stays = [
        usage_event(
            {"tokens": number, "user_id": number}, external_customer_id=f"stays_{number}", at=NOON + 2 * hour
        )
        for number in range(1, 4)
    ]
    shard.take(*stays, append_ms=NOON_MS + 2 * HOUR_MS)
    shard.tick()
    assert len(shard.state.accounts) == 1_203
    shard.hear(NOON_MS + 2 * HOUR_MS + MINUTE_MS + 1)
    shard.tick()
    assert sorted(shard.state.accounts.names) == [("acme", f"stays_{number}") for number in range(1, 4)]
    shard.take(
        usage_event({"tokens": 10, "user_id": "new"}, external_customer_id="stays_2", at=NOON + 2 * hour),
        usage_event({"tokens": 5, "user_id": "x"}, external_customer_id="gone_7", at=NOON + 2 * hour),
        append_ms=NOON_MS + 2 * HOUR_MS + MINUTE_MS + 2,
    )
    for again in (shard, shard.resumed()):
        rows = {(row["external_customer_id"], row["meter_id"]): row for row in again.tick(2)}
        assert {place: (row["events"], row["total"], row["uniques"]) for place, row in rows.items()} == {
            ("stays_2", "tokens"): (2, Decimal(12), 0),
            ("stays_2", "users"): (2, Decimal(0), 2),
            ("gone_7", "tokens"): (1, Decimal(5), 0),
            ("gone_7", "users"): (1, Decimal(0), 1),
        }
        if again is shard:
            break


def test_a_backlog_makes_nothing_late() -> None:
    shard = WindowShard(SUM)
    shard.now += timedelta(days=3)
    events = [tokens(1, at=NOON + timedelta(minutes=number)) for number in range(600)]
    late = shard.take(*events, append_ms=[NOON_MS + number * MINUTE_MS for number in range(600)])
    assert late == []
    assert len(shard.tick()) == 600
