"""Windows as bytes and back, under the same catalog and under another one."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from operators import cell_log, snapshot_files, window_state
from operators.window_state import FORMAT, WindowedMeter, dump, restore
from schemas.meters import Meter
from tests.builders import NOON, meter, usage_event
from tests.operators.batches import NOON_MS
from tests.operators.window_shard import Row, WindowShard, tokens


@pytest.fixture(autouse=True, params=[cell_log.CELLS_MIN, 1], ids=["whole", "in files"])
def cells_min(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_files, "BYTES_MIN", 1 << 40)  # no snapshot is one
    monkeypatch.setattr(cell_log, "CELLS_MIN", request.param)


MINUTE_MS, HOUR_MS = 60_000, 3_600_000
SUM = meter("tokens", window="1m", allowed_lateness="1h")
USERS = meter("users", type="COUNT_UNIQUE", window="1h", allowed_lateness="1h")
CALLS = meter("calls", type="COUNT", window="5m", allowed_lateness="1h")
CLOSES_MS = NOON_MS + MINUTE_MS + HOUR_MS
"""When SUM's window of NOON takes no more readings."""


def event(value: int, user: str, customer: str = "c") -> Row:
    return usage_event({"tokens": value, "user_id": user}, external_customer_id=customer)


def used(*meters: Meter) -> WindowShard:
    """A shard that has sent what it has: two readings of customer c, one of b."""
    shard = WindowShard(*meters)
    shard.take(event(1, "u1"), event(2, "u2"), event(3, "u3", "b"))
    shard.tick()
    return shard


def held(rows: list[Row]) -> dict[tuple[str, str, int], tuple[int, Decimal, int, int]]:
    return {
        (row["external_customer_id"], row["meter_id"], row["window_s"]): (
            row["events"],
            row["total"],
            row["uniques"],
            row["version"],
        )
        for row in rows
    }


def test_a_snapshot_is_the_state_to_the_last_bit() -> None:
    shard = WindowShard(SUM, USERS, CALLS)
    shard.take(event(-1, "u1"), event(10**17, "u2"), event(3, "u1", "b"), tokens("0.000000000001"))
    shard.tick()
    shard.take(event(5, "u9"), partition=1, partitions=2)
    snapshot = shard.logic.snapshot()
    assert type(snapshot) is bytes
    state = restore(snapshot, shard.config.meters, shard.archive)
    assert dump(state) == snapshot == shard.resumed().logic.snapshot()
    assert state.cells.dirty.sum() == 3, "what was not sent yet"
    assert state.watermark.sources == {"usage-events/0": NOON_MS, "usage-events/1": NOON_MS}


def test_a_snapshot_does_not_change_when_the_state_does() -> None:
    shard = used(SUM, USERS)
    snapshot, copy = shard.logic.snapshot(), bytes(bytearray(shard.logic.snapshot()))
    shard.take(event(5, "u9"), event(7, "u9", "new"))
    shard.tick()
    assert snapshot == copy


def test_a_snapshot_begins_with_its_format_and_names_no_class() -> None:
    snapshot = used(SUM, USERS).logic.snapshot()
    assert msgspec.msgpack.decode(snapshot)[0] == FORMAT
    assert b"operators" not in snapshot
    assert b"Window" not in snapshot


def test_another_format_is_refused_before_it_is_read() -> None:
    with pytest.raises(
        ValueError, match=rf"window state .* format 1, this version reads {FORMAT}: go on with the version"
    ):
        restore(msgspec.msgpack.encode([1, {"another": "layout"}]), [])


def test_an_empty_shard_has_a_state_too() -> None:
    shard = WindowShard(SUM).resumed().resumed()
    shard.take(tokens(4))
    assert held(shard.tick()) == {("cust_1", "tokens", 60): (1, Decimal(4), 0, 1)}


CATALOGS: dict[str, tuple[Meter, ...]] = {
    "the same": (SUM, USERS, CALLS),
    "in another order": (CALLS, SUM, USERS),
    "with a meter in front": (meter("new", type="COUNT"), SUM, USERS, CALLS),
    "with more lateness": (meter("tokens", allowed_lateness="7d"), USERS, CALLS),
    "with other filters": (
        SUM,
        USERS,
        meter("calls", type="COUNT", window="5m", filters={"user_id": ["u3"]}),
    ),
}


@pytest.mark.parametrize("today", CATALOGS.values(), ids=CATALOGS)
def test_another_catalog_keeps_the_counts_of_its_meters(today: tuple[Meter, ...]) -> None:
    shard = used(SUM, USERS, CALLS).resumed(*today)
    shard.take(event(10, "u3"))
    rows = held(shard.tick())
    assert {place: rows[place] for place in rows if place[1] != "new"} == {
        ("c", "tokens", 60): (3, Decimal(13), 0, 3),
        ("c", "users", 3600): (3, Decimal(0), 3, 3),
        ("c", "calls", 300): (3, Decimal(0), 0, 3),
    }
    assert rows.get(("c", "new", 60)) in (None, (1, Decimal(0), 0, 1))


def test_a_meter_with_another_window_is_another_meter() -> None:
    shard = used(SUM).resumed(meter("tokens", window="1h"))
    shard.take(event(10, "u3"))
    assert held(shard.tick()) == {("c", "tokens", 3600): (1, Decimal(10), 0, 1)}


@pytest.mark.parametrize("unsent", [True, False])
@pytest.mark.parametrize("users_first", [True, False])
def test_a_meter_with_another_aggregation_goes_on_in_its_open_windows(
    users_first: bool, unsent: bool
) -> None:
    """They are one row of the store, which would ignore version 1 of a second cell."""
    before, after = meter("m", type="COUNT_UNIQUE"), meter("m", type="SUM")
    if not users_first:
        before, after = after, before
    shard = used(before)
    if unsent:
        shard.take(event(4, "u4"))
    shard = shard.resumed(after)
    if unsent:
        ((_, row),) = held(shard.tick(0)).items()
        assert row[0] == row[3] == 3
    shard.take(event(10, "u3"))
    ((place, (events, _, uniques, version)),) = held(shard.tick()).items()
    assert place == ("c", "m", 60)
    assert events == version == 3 + unsent
    assert uniques == ((2 + unsent) if users_first else 1)


def test_a_removed_meter_sends_what_it_has_and_is_forgotten_in_its_time() -> None:
    shard = used(SUM, USERS)
    shard.take(event(4, "u4"))
    shard = shard.resumed(CALLS)
    shard.take(event(8, "u8"))
    assert held(shard.tick()) == {
        ("c", "tokens", 60): (3, Decimal(7), 0, 3),
        ("c", "users", 3600): (3, Decimal(0), 3, 3),
        ("c", "calls", 300): (1, Decimal(0), 0, 1),
    }
    assert [one.id for one in shard.state.meters] == ["calls", "tokens", "users"]
    shard.hear(CLOSES_MS + 1)
    shard.tick()
    assert [one.id for one in shard.resumed().state.meters] == ["calls", "users"], "users' hour is open"
    shard.hear(NOON_MS + 2 * HOUR_MS + 1)
    shard.tick()
    assert len(shard.state.cells) == 0
    assert [one.id for one in shard.resumed().state.meters] == ["calls"]


def test_a_meter_that_comes_back_goes_on() -> None:
    shard = used(SUM, USERS).resumed(CALLS).resumed().resumed(USERS, SUM)
    shard.take(event(4, "u1"))
    assert held(shard.tick()) == {
        ("c", "tokens", 60): (3, Decimal(7), 0, 3),
        ("c", "users", 3600): (3, Decimal(0), 2, 3),
    }


def test_more_lateness_does_not_reopen_what_was_forgotten() -> None:
    """The window would begin anew with version 1, below the stored one, and the reading would be lost."""
    shard = used(SUM)
    shard.hear(CLOSES_MS + 1)
    shard.tick()
    longer = meter("tokens", window="1m", allowed_lateness="7d")
    after = CLOSES_MS + 2
    for again in (
        shard.resumed(longer),
        shard.resumed(longer).resumed(),
        shard.resumed(longer).resumed(longer),
    ):
        forgotten, kept = event(5, "u1"), usage_event({"tokens": 6}, at=NOON.replace(minute=1))
        late = again.take(forgotten, kept, append_ms=after)
        assert [row["id"] for row in late] == [forgotten["id"]]
        assert [row["total"] for row in again.tick()] == [Decimal(6)]
        again.hear(CLOSES_MS + 24 * HOUR_MS)
        again.tick()
        assert len(again.state.cells) == 1, "from here on the longer lateness holds"


def test_less_lateness_forgets_sooner_and_sends_first() -> None:
    shard = WindowShard(meter("tokens", allowed_lateness="7d"))
    shard.take(event(1, "u1"))
    shard.hear(CLOSES_MS + 1)
    shard = shard.resumed(SUM)
    assert held(shard.tick(0)) == {("c", "tokens", 60): (1, Decimal(1), 0, 1)}
    assert len(shard.state.cells) == 0
    assert len(shard.take(event(2, "u1"), append_ms=NOON_MS)) == 1


def test_more_meters_than_keys_can_tell_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_state, "METERS_MAX", 2)
    shard = used(SUM, CALLS)
    with pytest.raises(ValueError, match="3 meters, over the limit of 2"):
        shard.resumed(USERS)
    assert [one.id for one in shard.resumed(SUM).state.meters] == ["tokens", "calls"]


def test_a_windowed_meter_is_what_the_catalog_says() -> None:
    assert WindowedMeter.of(USERS) == WindowedMeter("users", HOUR_MS, HOUR_MS, unique=True, forgotten_ms=0)
    assert WindowedMeter.of(SUM) == WindowedMeter("tokens", MINUTE_MS, HOUR_MS, unique=False)


def test_a_snapshot_of_many_cells_is_small() -> None:
    shard = WindowShard(SUM)
    events = [
        usage_event(
            {"tokens": 1},
            external_customer_id=f"cust_{number % 100:03d}",
            at=NOON.replace(minute=number // 100),
        )
        for number in range(1_000)
    ]
    shard.take(*events, append_ms=NOON_MS + HOUR_MS)
    assert len(shard.state.cells) == 1_000
    per_cell = 8 + 8 + 8 + 8 + 1 + 1
    per_account = 8 + len("acme") + len("cust_000") + 2 * 4
    size = len(shard.logic.snapshot())
    assert size < (1_000 * per_cell if cell_log.CELLS_MIN > 1_000 else 1_000 / 4) + 100 * per_account + 200
    assert len(shard.archive.files) == (cell_log.CELLS_MIN == 1)
