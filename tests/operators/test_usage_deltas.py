"""What a shard's snapshot has of accounts that usage was added to is all that the shard has."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from operators.bill_state import Shelf
from operators.bills import BillConfig, Bills
from operators.hyperloglog import EXACT_MAX
from operators.snapshot_files import SnapshotFiles
from tests.operators.pipeline import Pipeline, utc
from tests.operators.stories import BEGIN, CATALOG, Story, batch, busy_steps, story_of, tell


@settings(max_examples=150, deadline=None)
@given(busy_steps, st.integers(0, 2**32))
def test_what_is_restored_is_what_was_there(drawn: list[tuple[int, str, dict[str, Any]]], seed: int) -> None:
    tell(story_of(drawn), random.Random(seed), polled=(1, 2), at_snapshot=is_restored_whole)


def test_usage_that_changes_the_price_of_other_usage() -> None:
    stored = {"event_name": "store", "tokens": 3, "user": "u1", "lag_s": 0}
    early = (1, "c1", stored)
    late = (1, "c1", stored | {"lag_s": 7300})  # of October, where the meters that never reset begin
    tell_in_polls(story_of([early, (7200, "c1", stored), late, early]), [1, 1, 1, 1])


def test_usage_of_two_segments_in_one_fold() -> None:
    usage = {"event_name": "llm", "tokens": 3, "user": "u1", "lag_s": 0}
    late = (1, "c1", usage | {"user": "u2", "lag_s": 7300})
    tell_in_polls(story_of([(1, "c1", usage), (7200, "c1", usage), late, (1, "c1", usage)]), [1, 1, 2])


def test_a_minute_of_more_distinct_values_than_are_kept_exactly() -> None:
    usage = {"event_name": "llm", "tokens": 3, "lag_s": 0}
    many = [(0, "c1", usage | {"user": f"u{number}"}) for number in range(EXACT_MAX + 1)]
    later = (900, "c1", usage | {"user": "u1"})  # when nothing moves that minute any more
    soon = (1, "c1", usage | {"user": "u1"})
    tell_in_polls(story_of([*many, soon, later]), [len(many), 1, 1])


def tell_in_polls(story: Story, sizes: list[int]) -> None:
    """Read usage in polls of these sizes, with snapshots before and after charges are sent."""
    pipeline, read = Pipeline(CATALOG, BEGIN, shards=2), 0
    for size in sizes:
        records, read = story.usage[read : read + size], read + size
        pipeline.now = utc(records[-1].append_ms)
        pipeline.poll(batch(records, "usage-events", records[-1].append_ms))
        pipeline.poll_accounts(batch([], "account-events", records[-1].append_ms))
        is_restored_whole(pipeline)
        pipeline.tick(3)
        is_restored_whole(pipeline)
    assert read == len(story.usage)


def is_restored_whole(pipeline: Pipeline) -> None:
    now_ms = round(pipeline.now.timestamp() * 1000)
    for _, _, bill in pipeline._shard.values():
        snapshot = SnapshotFiles(pipeline.archive).found(bill.snapshot())
        restored = Bills(BillConfig(CATALOG), Shelf.restore(snapshot, CATALOG))
        for bills in (restored, bill._bills):
            bills.fold()
        assert plain(restored.shelf, now_ms) == plain(bill._bills.shelf, now_ms)


def plain(shelf: Shelf, now_ms: int) -> list[Any]:
    """All that is known of the accounts, priced; but not what is known of commits."""
    ledgers = [shelf.ledger(number) for number in range(len(shelf.ledgers))]
    wallets = [list(ledger.wallets(now_ms)) for ledger in ledgers]
    states = [structs.replace(ledger.state, usages=[]) for ledger in ledgers]
    usages = [
        [
            (
                structs.replace(usage, is_stored=True, uniques=None, settled=None),
                *(sketch and sketch.state() for sketch in (usage.uniques, usage.settled)),
            )
            for usage in ledger.state.usages
        ]
        for ledger in ledgers
    ]
    unsent = [[usage.place for usage in ledger.usages.values() if usage.is_unsent] for ledger in ledgers]
    return [wallets, states, usages, unsent, sorted(shelf.unsent), shelf.alerts]
