"""Numbers of accounts."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import accounts
from operators.accounts import Account, Accounts, StoredAccounts
from operators.shard import tenant_hash
from schemas.arrow import NAME
from schemas.usage import U64, Readings, Slice

names = st.tuples(st.sampled_from(["a", "b", "é"]), st.sampled_from(["1", "2", "3", "x" * 50]))


def events(found: list[Account]) -> tuple[U64, pa.RecordBatch]:
    tenants = pa.array([tenant for tenant, _ in found], pa.string()).cast(NAME)
    customers = pa.array([customer for _, customer in found], pa.string())
    batch = pa.record_batch({"tenant_id": tenants, "external_customer_id": customers})
    return tenant_hash(tenants, customers), batch


def number(known: Accounts, found: list[Account]) -> list[int]:
    hashes, batch = events(found)
    rows = np.arange(len(found))
    zeros = np.zeros(len(found), np.uint64)
    times = np.zeros(len(found), np.int64)
    row, meter = rows.astype(np.uint32), np.zeros(len(found), np.uint16)
    readings = Readings(row, meter, zeros, times, zeros)
    known.learn(Slice(batch, rows, hashes, hashes, times, times, readings, ()))
    numbers: list[int] = known.numbers(hashes).tolist()
    return numbers


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(names, max_size=8), max_size=6), st.integers(0, 5))
def test_an_account_has_one_number_through_batches_and_a_restart(
    batches: list[list[Account]], restart: int
) -> None:
    known = Accounts()
    for turn, found in enumerate(batches):
        if turn == restart:
            stored = msgspec.msgpack.encode(known.dump())
            known = Accounts.restore(msgspec.msgpack.decode(stored, type=StoredAccounts))
        numbers = number(known, found)
        assert [known.names[i] for i in numbers] == found
        columns = (column.to_pylist() for column in known.columns(np.array(numbers, np.int64)))
        assert list(zip(*columns, strict=True)) == found
    everyone = {name for found in batches for name in found}
    assert len(known) == len(known.hashes) == len(everyone)
    assert set(known.names) == everyone


def test_one_account_is_numbered_by_its_name_too() -> None:
    known = Accounts()
    assert number(known, [("a", "2"), ("a", "1")]) in ([0, 1], [1, 0])
    hashes, _ = events([("a", "1"), ("b", "1")])
    assert known.names[known.number_of(int(hashes[0]), ("a", "1"))] == ("a", "1")
    assert known.number_of(int(hashes[1]), ("b", "1")) == 2
    assert known.number_of(int(hashes[1]), ("b", "1")) == 2
    assert number(known, [("b", "1")]) == [2]


def test_kept_accounts_are_renumbered_and_found_again() -> None:
    known = Accounts()
    found = [("a", str(customer)) for customer in range(20)]
    numbers = number(known, found)
    wanted = np.array([numbers[3], numbers[17], numbers[3], numbers[8]], np.uint64)
    kept, renumbered = known.keep(wanted)
    assert len(kept) == 3
    assert [kept.names[int(renumbered[i])] for i in (numbers[3], numbers[17], numbers[8])] == [
        found[3],
        found[17],
        found[8],
    ]
    assert number(kept, [found[17]]) == [int(renumbered[numbers[17]])]
    assert number(kept, [found[0]]) == [3]


def test_more_accounts_than_keys_can_tell_apart_stop_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "ACCOUNTS_MAX", 3)
    known = Accounts()
    number(known, [("a", "1"), ("a", "2"), ("a", "3")])
    with pytest.raises(OverflowError, match=r"over 3 customers .* more shards"):
        number(known, [("a", "1"), ("a", "4")])


def test_accounts_of_one_shard_are_found_however_many_they_are() -> None:
    """Their hashes have the lowest bits in common."""
    hashes = np.arange(1, 5_001, dtype=np.uint64) << np.uint64(16)
    names_ = pa.array([str(number) for number in range(len(hashes))])
    batch = pa.record_batch({"tenant_id": names_, "external_customer_id": names_})
    known = Accounts()
    for end in (3, 100, 400, 5_000):
        rows, part = np.arange(end), hashes[:end]
        times, none, row = np.zeros(end, np.int64), np.zeros(end, np.uint64), rows.astype(np.uint32)
        readings = Readings(row, np.zeros(end, np.uint16), none, times, none)
        known.learn(Slice(batch, rows, part, part, times, times, readings, ()))
        numbers = known.numbers(part).tolist()
        assert [int(known.names[number][1]) for number in numbers] == rows.tolist()
