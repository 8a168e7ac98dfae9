"""A shard's accounts as bytes and back, also under another catalog."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import cell_log
from operators.bill_state import FORMAT, Shelf
from operators.bills import BillConfig, Bills
from operators.folds import unpack
from operators.snapshot_files import SnapshotFiles
from schemas.catalog import Catalog, load_catalog
from tests.builders import account_event, payload
from tests.operators.pipeline import Pipeline
from tests.operators.stories import BEGIN, CATALOG, CATALOG_YAML, batch, differences, steps, story_of, tell
from tests.operators.test_cell_log import content
from tests.oracle import LogRecord, Rules, expected

GENERATION_BITS = 40


@pytest.fixture(autouse=True, params=[cell_log.CELLS_MIN, 1], ids=["whole", "in files"])
def cells_min(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_log, "CELLS_MIN", request.param)


def bill_states(pipeline: Pipeline) -> list[bytes]:
    return [SnapshotFiles(pipeline.archive).found(bill) for _, _, bill in pipeline.snapshot().values()]


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(0, 2**32))
def test_what_is_restored_is_stored_again_as_the_same_bytes(
    drawn: list[tuple[int, str, dict[str, Any]]], seed: int
) -> None:
    pipeline = tell(story_of(drawn), random.Random(seed))
    for state in bill_states(pipeline):
        assert Shelf.restore(state, CATALOG, pipeline.archive).dump() == state


def told_story() -> Pipeline:
    usage = {"event_name": "llm", "tokens": 13, "user": "u1", "lag_s": 0}
    stored = {**usage, "event_name": "store"}
    return tell(story_of([(1, "c1", usage), (1, "c2", stored), (60, "c1", stored)]), random.Random(1))


def test_another_format_is_refused() -> None:
    for state in bill_states(told_story()):
        changed = msgspec.msgpack.decode(state)
        changed[0] = FORMAT + 1
        with pytest.raises(ValueError, match=f"format {FORMAT + 1}"):
            Shelf.restore(msgspec.msgpack.encode(changed), CATALOG)


def test_an_account_that_did_not_change_is_not_encoded_again() -> None:
    pipeline = told_story()
    shelves = [Shelf.restore(state, CATALOG, pipeline.archive) for state in bill_states(pipeline)]
    shelf = max(shelves, key=lambda one: len(one.ledgers))
    shelf.ledgers[0].state.inputs += 1  # behind the shelf's back
    same = shelf.dump()
    shelf.changed(0)
    assert shelf.dump() != same


def resumed(pipeline: Pipeline, catalog: Catalog) -> Pipeline:
    """The flow started again with another catalog; the stores keep what they have."""
    later = Pipeline(catalog, pipeline.now, shards=2)
    later.stores, later.archive = pipeline.stores, pipeline.archive
    later.resume(pipeline.snapshot())
    later.tick(5)
    later.drain()
    return later


def test_another_price_is_a_new_generation_and_every_charge_is_sent_again() -> None:
    pipeline = told_story()
    before = {key: row["version"] for key, row in pipeline.stores.charges.items()}
    text = CATALOG_YAML.replace("amount: 5}", "amount: 6}").replace('"0.333"', '"0.444"')
    later = resumed(pipeline, load_catalog(text))
    assert later.stores.charges.keys() == before.keys()
    for key, row in later.stores.charges.items():
        assert row["version"] > before[key]
    amounts = {(key[1], key[3]): str(row["amount"].normalize()) for key, row in later.stores.charges.items()}
    assert amounts["c1", ""] == "6"
    assert amounts["c1", "tokens"] == "4.44"
    for wallet in later.stores.wallets.values():
        assert wallet.version >> GENERATION_BITS == 1


def test_usage_stays_on_the_plan_that_it_was_metered_under() -> None:
    usage = {"event_name": "llm", "tokens": 13, "user": "u1", "lag_s": 0}
    later = resumed(
        tell(story_of([(1, "c1", usage)]), random.Random(1)),
        load_catalog(CATALOG_YAML.replace("default_plan: starter", "default_plan: weekly")),
    )
    change = account_event(
        "subscription_started", at=later.now, plan_id="daily", tenant_id="t", external_customer_id="c1"
    )
    now_ms = round(later.now.timestamp() * 1000)
    record = LogRecord("account-events", 0, 9, now_ms, b"k", payload(change))
    later.poll_accounts(batch([record], "account-events", now_ms))
    later.tick(5)
    later.drain()
    assert str(later.stores.wallets["t", "c1", "USD"].usage) == "8.33"
    assert str(later.stores.wallets["t", "c1", "EUR"].usage) == "1.00"


def test_meters_may_change_places_and_what_can_still_move_goes_with_them() -> None:
    usage = {"event_name": "llm", "tokens": 13, "user": "u1", "lag_s": 0}
    change = {"type": "subscription_started", "plan_id": "daily", "anchor": None, "amount": 1}
    story = story_of(
        [
            (1, "c1", usage),
            (60, "c1", usage),
            (1, "c1", change | {"currency": "USD", "lag_s": 5, "number": 1}),
        ],
        300,
    )
    lines = CATALOG_YAML.split("\n")
    lines[2:8] = reversed(lines[2:8])
    text = "\n".join(lines)
    first = story_of([(1, "c1", usage), (60, "c1", usage)], 0)
    pipeline = tell(first, random.Random(3))
    later = resumed(pipeline, load_catalog(text))
    (bill,) = (bill for _, _, bill in later._shard.values() if bill._bills.shelf.ledgers)
    shelf = bill._bills.shelf
    names = {shelf.catalog.meters[index].id for index in unpack(shelf.recent.key)[1].tolist()}
    assert names == {"tokens", "users", "latency"}
    later.now = story.now
    end_ms = round(story.now.timestamp() * 1000)
    later.poll_accounts(batch(story.accounts, "account-events", end_ms))
    later.tick(timedelta(seconds=5).total_seconds())
    later.drain()
    assert differences(later, expected(story.records, text, Rules(now=story.now))) == []


def test_usage_of_a_meter_that_left_the_catalog_stays_where_it_is() -> None:
    pipeline = told_story()
    lines = [line for line in CATALOG_YAML.split("\n") if "users" not in line]
    later = resumed(pipeline, load_catalog("\n".join(lines)))
    for _, _, bill in later._shard.values():
        shelf = bill._bills.shelf
        assert set(unpack(shelf.recent.key)[1].tolist()) <= set(range(len(shelf.catalog.meters)))
    owed = {key[1]: wallet.usage for key, wallet in later.stores.wallets.items()}
    assert {name: str(amount) for name, amount in owed.items()} == {"c1": "11.58", "c2": "8.25"}


def test_what_thresholds_were_compared_with_is_kept_also_when_nothing_else_changed() -> None:
    text = CATALOG_YAML.replace(
        "  - id: starter\n", "  - id: starter\n    thresholds: [{kind: spend, amount: 1}]\n"
    )
    catalog, told, pipeline = load_catalog(text), [], told_story()
    for state in bill_states(pipeline):
        first = Bills(BillConfig(catalog), Shelf.restore(state, catalog, pipeline.archive))
        first.wallets(0)
        second = Bills(BillConfig(catalog), Shelf.restore(first.dump(), catalog, pipeline.archive))
        second.wallets(0)
        told.append(sorted(alert.external_customer_id for alert in second.alerts()))
        third = Bills(BillConfig(catalog), Shelf.restore(second.dump(), catalog, pipeline.archive))
        third.wallets(0)
        assert third.alerts(is_last=True) == []
    assert sorted(name for names in told for name in names) == ["c1", "c2"]


def test_a_resumed_shard_sends_every_wallet_and_the_charges_that_were_not_sent() -> None:
    pipeline = told_story()
    for state in bill_states(pipeline):
        bills = Bills(BillConfig(CATALOG), Shelf.restore(state, CATALOG, pipeline.archive))
        rows = bills.wallets(0)
        assert {row.external_customer_id for row in rows} == {name for _, name in bills.shelf.accounts.names}
        assert (bills.alerts(), bills.charges()) == ([], None)
        bills.shelf.unsent.add(0)
        next(iter(bills.shelf.changed(0).usages.values())).is_unsent = True
        again = Bills(BillConfig(CATALOG), Shelf.restore(bills.dump(), CATALOG, pipeline.archive)).charges()
        assert again is not None
        assert len(again) == 1


USAGE = {"event_name": "llm", "tokens": 13, "user": "u1", "lag_s": 0}


def waiting() -> Pipeline:
    """A flow that was killed while readings waited to be folded."""
    pipeline = told_story()
    story = story_of([(3, "c1", USAGE), (1, "c3", USAGE | {"user": "u2"})], 200)
    pipeline.now = story.now
    end_ms = round(story.now.timestamp() * 1000)
    pipeline.poll(batch(story.usage, "usage-events", end_ms))
    assert any(bill._bills.shelf.buffer for _, _, bill in pipeline._shard.values())
    return pipeline


def test_readings_that_wait_are_folded_after_a_resume() -> None:
    whole = waiting()
    whole.tick(5)
    whole.drain()
    later = resumed(waiting(), CATALOG)
    assert later.stores.wallets == whole.stores.wallets
    assert later.stores.charges == whole.stores.charges


@pytest.mark.parametrize(
    "change",
    [
        ("default_plan: starter", "default_plan: weekly"),
        ("default_plan: starter\n", ""),
        ('"0.333"', '"0.444"'),
    ],
    ids=["another default plan", "none", "another price"],
)
def test_readings_that_wait_go_where_the_catalog_had_them_that_they_were_read_under(
    change: tuple[str, str],
) -> None:
    text = CATALOG_YAML.replace(*change)
    folded = waiting()
    folded.drain()
    assert not any(bill._bills.shelf.buffer for _, _, bill in folded._shard.values())
    expected_, later = resumed(folded, load_catalog(text)), resumed(waiting(), load_catalog(text))
    assert wallets(later) == wallets(expected_)
    assert charges(later) == charges(expected_)


def test_readings_that_wait_are_of_their_meters_in_whatever_order_these_are_now() -> None:
    lines = CATALOG_YAML.split("\n")
    lines[2:8] = reversed(lines[2:8])
    whole = waiting()
    whole.drain()
    later = resumed(waiting(), load_catalog("\n".join(lines)))
    assert wallets(later) == wallets(whole)
    assert charges(later) == charges(whole)


def test_another_catalog_may_be_resumed_with_twice_from_one_snapshot() -> None:
    """The flow dies after it has read its state, before it has made a snapshot of it."""
    lines = CATALOG_YAML.split("\n")
    lines[2:8] = reversed(lines[2:8])
    drawn = [(1, "c1", USAGE), (60, "c1", USAGE), (60, "c1", USAGE | {"user": "u2"})]
    pipeline, story = tell(story_of(drawn[:2], 0), random.Random(3)), story_of(drawn, 0)
    pipeline.snapshot()
    pipeline.poll(batch(story.usage[2:], "usage-events", round(story.now.timestamp() * 1000)))
    assert any(bill._bills.shelf.buffer for _, _, bill in pipeline._shard.values())
    for _ in range(3):
        snapshots = pipeline.snapshot()  # the last one's files are all there are
    files, outcomes = dict(pipeline.archive.files), list[Any]()
    for _ in range(2):
        later = Pipeline(load_catalog("\n".join(lines)), pipeline.now, shards=2)
        later.archive = pipeline.archive
        later.resume(snapshots)
        assert later.archive.files == files
        outcomes.append([content(bill._bills.shelf.recent) for _, _, bill in later._shard.values()])
    assert outcomes[0] == outcomes[1]
    assert sum(len(keys) for keys, *_ in outcomes[0]) >= 3


def test_minutes_that_can_still_move_are_in_a_file(cells_min: None) -> None:
    pipeline = tell(story_of([(1, "c1", USAGE)], 0), random.Random(3))
    pipeline.snapshot()
    is_filed = [name for name in pipeline.archive.files if name.startswith("bill-00")]
    assert bool(is_filed) == (cell_log.CELLS_MIN == 1)
    assert bool([name for name in pipeline.archive.files if name.startswith("window-00")]) == bool(is_filed)


def test_a_drain_leaves_files_of_all_windows_and_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_log, "CELLS_MIN", 5)
    pipeline = Pipeline(CATALOG, BEGIN, shards=1)
    for first in range(3):
        story = story_of([(1, f"c{first + n}", USAGE) for n in range(20)], 0)
        pipeline.poll(batch(story.usage, "usage-events", round(story.now.timestamp() * 1000)))
        pipeline.tick(60)
        pipeline.snapshot()
        assert bases(pipeline) == ["bill-000-0", "window-000-0"]
    pipeline.drain()
    pipeline.snapshot()
    assert bases(pipeline) == ["bill-000-0", "bill-000-1", "window-000-0", "window-000-1"]


def bases(pipeline: Pipeline) -> list[str]:
    return sorted(name for name in pipeline.archive.files if name.startswith(("bill", "window")))


def wallets(pipeline: Pipeline) -> dict[Any, Any]:
    return {key: (row.usage, row.balance, row.version) for key, row in pipeline.stores.wallets.items()}


def charges(pipeline: Pipeline) -> dict[Any, Any]:
    return {
        key: (row["events"], row["quantity"], row["amount"], row["version"])
        for key, row in pipeline.stores.charges.items()
    }
