"""Slices: every row in exactly one, with its readings, and nothing else when it crosses processes."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.shard import ORDERED_ROWS_MAX, PROGRESS_EVERY_MS, Sharder, shard_key, tenant_hash
from schemas.arrow import NAME
from schemas.events import Progress
from schemas.usage import MeteredBatch, Slice
from tests.builders import meter, usage_event
from tests.operators.batches import NOON_MS, measured, readings_of, token

METERS = [
    meter("sum", event_name="e", type="SUM", field="n", on_missing="skip"),
    meter("unique", event_name="e", type="COUNT_UNIQUE", field="n"),
    meter("count", event_name="f", type="COUNT"),
]


def metered(rows: Sequence[tuple[str, str, str, int | None]], append_ms: int = NOON_MS) -> MeteredBatch:
    """Rows of (tenant, customer, event name, n)."""
    events = [
        usage_event({"n": n}, event_name=name, tenant_id=tenant, external_customer_id=customer)
        for tenant, customer, name, n in rows
    ]
    batch, rejects = measured(METERS, events, append_ms)
    assert not rejects
    return batch


def heartbeat(progress: Progress) -> MeteredBatch:
    return replace(metered([]), progress=(progress,))


def same(a: Slice, b: Slice) -> bool:
    return (
        a.taken().equals(b.taken())
        and a.progress == b.progress
        and all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Slice)[2:6])
        and all(
            np.array_equal(getattr(a.readings, f.name), getattr(b.readings, f.name))
            for f in fields(a.readings)
        )
    )


names = st.sampled_from(["a", "b", "ab", "é", "cust 1", "x" * 200])
rows_of_any_kind = st.lists(
    st.tuples(names, names, st.sampled_from(["e", "f", "g"]), st.none() | st.integers(0, 99)), max_size=30
)


@settings(max_examples=25, deadline=None)
@given(rows_of_any_kind, st.integers(1, 40))
def test_every_row_lands_in_exactly_one_slice_with_its_readings(
    rows: list[tuple[str, str, str, int | None]], shards: int
) -> None:
    batch = metered(rows)
    slices = list(Sharder(shards).split(batch))
    assert [key for key, _ in slices] == [shard_key(number) for number in range(shards)], (
        "the first tells all"
    )
    events = [row for _, piece in slices for row in piece.taken().to_pylist()]
    assert sorted(events, key=offset_of) == batch.events.to_pylist()
    found = [reading for _, piece in slices for reading in readings_of(piece, METERS)]
    assert sorted(found) == sorted(readings_of(batch, METERS))
    for key, piece in slices:
        assert (piece.account % np.uint64(shards) == int(key)).all()
        assert [row["offset"] for row in piece.taken().to_pylist()] == sorted(
            row["offset"] for row in piece.taken().to_pylist()
        ), "in the order of the log"
        assert (np.diff(piece.readings.row.astype(np.int64)) >= 0).all()
        check_columns(piece)


def offset_of(row: dict[str, Any]) -> int:
    return int(row["offset"])


def check_columns(piece: Slice) -> None:
    """Row i of each column is the same event."""
    events = piece.taken()
    tenants = events.column("tenant_id")
    assert (piece.account == tenant_hash(tenants, events.column("external_customer_id"))).all()
    rows = events.to_pylist()
    named = {(row["tenant_id"], row["external_customer_id"], row["id"]) for row in rows}
    assert len(set(piece.identity.tolist())) == len(named)
    assert piece.at_ms.tolist() == [round(row["timestamp"].timestamp() * 1000) for row in rows]
    assert piece.append_ms.tolist() == [round(row["ingested_at"].timestamp() * 1000) for row in rows]


def test_a_customer_has_one_shard_in_every_batch_and_process() -> None:
    customers = [f"cust_{number}" for number in range(200)]
    homes: dict[str, set[str]] = {customer: set() for customer in customers}
    for start, sharder in ((0, Sharder(8)), (50, Sharder(8)), (100, Sharder(8))):
        batch = metered([("acme", customer, "e", 1) for customer in customers[start:] + customers[:start]])
        for key, piece in sharder.split(batch):
            for customer in piece.taken().column("external_customer_id").to_pylist():
                homes[customer].add(key)
    assert {len(keys) for keys in homes.values()} == {1}


def test_shards_are_even_for_numbered_customers_of_one_tenant_and_for_one_customer_of_many() -> None:
    for rows in (
        [("acme", f"cust_{number}", "e", 1) for number in range(6400)],
        [(f"tenant_{number}", "main", "e", 1) for number in range(6400)],
    ):
        sizes = [len(piece) for _, piece in Sharder(32).split(metered(rows))]
        assert 130 < min(sizes) <= max(sizes) < 280, "200 on average, six standard deviations are 84"


def test_the_shard_is_fixed_for_ever() -> None:
    """A recovery store is laid out by it: under another hash, half of a customer would be elsewhere."""
    tenants = pa.array(["acme", "acme", "b"], pa.string()).cast(NAME)
    hashes = tenant_hash(tenants, pa.array(["cust_1", "é", "cust_1"], pa.string()))
    assert hashes.tolist() == [2796832074583478295, 10354476045383131446, 585661732807340193]


def test_tenants_do_not_share_customers_or_ids() -> None:
    pairs = [("a", "b"), ("b", "a"), ("ab", "c"), ("a", "bc"), ("", "abc"), ("a", "a"), ("b", "b")]
    tenants = pa.array([tenant for tenant, _ in pairs], pa.string()).cast(NAME)
    hashes = tenant_hash(tenants, pa.array([name for _, name in pairs], pa.string()))
    assert len(set(hashes.tolist())) == len(pairs)


def test_customers_may_share_an_id() -> None:
    """Even those of one shard: else a good event would go as a repeat, by the chance of its shard."""
    events = [
        usage_event({"n": 1}, event_name="e", external_customer_id=f"cust_{number}", id="evt_1")
        for number in range(8)
    ]
    batch, _ = measured(METERS, events)
    for shards in (1, 3):
        identities = [one for _, piece in Sharder(shards).split(batch) for one in piece.identity.tolist()]
        assert len(set(identities)) == len(events)


def test_a_heartbeat_reaches_every_shard() -> None:
    progress = Progress("usage-events/3", NOON_MS, 4)
    slices = list(Sharder(16).split(heartbeat(progress)))
    assert [key for key, _ in slices] == [shard_key(number) for number in range(16)]
    assert {(len(piece), piece.progress) for _, piece in slices} == {(0, (progress,))}


def test_all_shards_hear_of_a_source_every_few_seconds_and_of_each_source() -> None:
    sharder, told = Sharder(16), Counter[str]()
    for source in ("a", "b"):
        for after_ms in (0, 1, PROGRESS_EVERY_MS - 1, PROGRESS_EVERY_MS, 2 * PROGRESS_EVERY_MS - 1):
            slices = list(sharder.split(heartbeat(Progress(source, NOON_MS + after_ms, 2))))
            told[source] += bool(slices)
            assert len(slices) in (0, 16)
    assert told == {"a": 2, "b": 2}
    busy = metered([("acme", "cust_1", "e", 1)])
    assert len(list(sharder.split(replace(busy, progress=(Progress("a", NOON_MS + 5_001, 2),))))) == 1


@settings(max_examples=15, deadline=None)
@given(rows_of_any_kind)
def test_a_slice_crosses_processes_whole(rows: list[tuple[str, str, str, int | None]]) -> None:
    for _, piece in Sharder(3).split(metered(rows)):
        arrived = pickle.loads(pickle.dumps(piece, protocol=5))  # noqa: S301 - our own bytes
        assert same(arrived, piece)
        check_columns(arrived)


def test_a_slice_crosses_processes_without_the_batch_that_it_was_cut_from() -> None:
    rows = [("acme", f"cust_{number}", "e", number) for number in range(10_000)]
    slices = [piece for _, piece in Sharder(500).split(metered(rows))]
    assert sum(len(piece) for piece in slices) == len(rows)
    for piece in slices:
        # The tenants, names and sources of the batch come along, and Arrow's own frame.
        assert len(pickle.dumps(piece, protocol=5)) < 4_500 + 400 * len(piece)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1, 40]), st.sets(st.integers(0, 299)))
def test_what_is_left_of_a_slice_is_its_events(shards: int, dropped: set[int]) -> None:
    """In batches that are put in order of shards and in larger ones, with few gaps and with many."""
    rows = 300
    assert ORDERED_ROWS_MAX < rows <= 40 * ORDERED_ROWS_MAX
    found = []
    for _, piece in Sharder(shards).split(LARGE):
        offsets = piece.taken().column("offset").to_pylist()
        left = piece.select(np.array([offset not in dropped for offset in offsets], np.bool_))
        assert left.taken().column("offset").to_pylist() == [o for o in offsets if o not in dropped]
        found += left.taken().to_pylist()
        if len(left):
            check_columns(left)
            assert same(pickle.loads(pickle.dumps(left, protocol=5)), left)  # noqa: S301 - our own bytes
    expected = [row for row in LARGE.events.to_pylist() if row["offset"] not in dropped]
    assert sorted(found, key=offset_of) == expected


LARGE = metered([("acme", f"cust_{number % 7}", "e", number) for number in range(300)])


def test_a_slice_of_some_rows_keeps_their_readings() -> None:
    batch = metered(
        [("acme", "c", "e", 5), ("acme", "c", "f", None), ("acme", "c", "e", None), ("acme", "c", "e", 7)]
    )
    ((_, whole),) = Sharder(1).split(batch)
    part = whole.select(np.array([False, True, True, True]))
    check_columns(part)
    assert readings_of(part, METERS) == [
        (1, "count", Decimal(0), 0),
        (3, "sum", Decimal(7), 0),
        (3, "unique", Decimal(0), token("7")),
    ]
    nothing = whole.select(np.zeros(4, np.bool_))
    assert (len(nothing), len(nothing.readings), nothing.progress) == (0, 0, whole.progress)
