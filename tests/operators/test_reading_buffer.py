"""Readings that wait are, summed in whatever pieces and through any snapshots, what they were."""

from __future__ import annotations

from collections import defaultdict

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import reading_buffer
from operators.accounts import Accounts
from operators.folds import Folded, unpack
from operators.reading_buffer import ReadingBuffer, StoredReadings
from schemas.usage import I64, MINUTE_MS, Readings, Slice

UNIQUE = np.array([False, True, False])
LIMIT = 10**30

Row = tuple[int, int, int, int, int, int]
"""(customer, meter, minute, append ms, value in units of 10^-12, token)"""
rows = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 99),
        st.integers(-LIMIT, LIMIT),
        st.integers(1, 5),
    ),
    min_size=1,
    max_size=8,
)
Cell = tuple[int, int, int, tuple[int, ...]]
"""Readings, their sum, when the newest was appended, the tokens that count."""


def piece(drawn: list[Row]) -> Slice:
    customer, meter, minute, append_ms, _, token = (np.array([row[at] for row in drawn]) for at in range(6))
    hashes = (customer.astype(np.uint64) + np.uint64(1)) << np.uint64(32)
    names = pa.record_batch(
        {
            "tenant_id": pa.array(["t"] * len(drawn)),
            "external_customer_id": pa.array([str(row[0]) for row in drawn]),
        }
    )
    lo = np.array([row[4] & (1 << 64) - 1 for row in drawn], np.uint64)
    hi = np.array([row[4] >> 64 for row in drawn], np.int64)
    number = np.arange(len(drawn))
    tokens = np.where(UNIQUE[meter], token, 0).astype(np.uint64)
    readings = Readings(number.astype(np.uint32), meter.astype(np.uint16), lo, hi, tokens)
    at_ms = minute * MINUTE_MS + customer
    return Slice(names, number, hashes, hashes, at_ms, append_ms, readings, ())


def cells_of(folded: Folded, newest_ms: I64, accounts: Accounts) -> dict[tuple[int, int, int], Cell]:
    found = {}
    for row, (account, meter, minute) in enumerate(zip(*unpack(folded.key), strict=True)):
        start, end = folded.starts[row], folded.ends[row]
        tokens = tuple(sorted(folded.tokens[start:end].tolist())) if UNIQUE[meter] else ()
        units = (int(folded.hi[row]) << 64) + int(folded.lo[row])
        customer = int(accounts.names[account][1])
        found[customer, int(meter), int(minute)] = int(folded.events[row]), units, int(newest_ms[row]), tokens
    return found


def expected(drawn: list[Row]) -> dict[tuple[int, int, int], Cell]:
    by_cell: dict[tuple[int, int, int], list[Row]] = defaultdict(list)
    for row in drawn:
        by_cell[row[:3]].append(row)
    return {
        key: (
            len(found),
            sum(row[4] for row in found),
            max(row[3] for row in found),
            tuple(sorted(row[5] for row in found)) if UNIQUE[key[1]] else (),
        )
        for key, found in by_cell.items()
    }


@pytest.mark.parametrize("fresh_max", [1, 5, 1_000])
@given(st.lists(st.tuples(rows, st.booleans()), min_size=1, max_size=6))
def test_what_waited_is_what_came(fresh_max: int, drawn: list[tuple[list[Row], bool]]) -> None:
    accounts = Accounts()
    buffer = ReadingBuffer(accounts, UNIQUE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading_buffer, "FRESH_MAX", fresh_max)
        for some, is_resumed in drawn:
            came = piece(some)
            accounts.learn(came)
            buffer.add(came)
            if is_resumed:
                stored, before = msgspec.msgpack.encode(buffer.dump()), len(buffer)
                assert buffer.dump() is not None
                found = msgspec.msgpack.decode(stored, type=StoredReadings | None)
                buffer = ReadingBuffer.restore(found, accounts, UNIQUE)
                assert len(buffer) == before
    everything = [row for some, _ in drawn for row in some]
    assert len(buffer) == len(everything)
    assert cells_of(*buffer.take(), accounts) == expected(everything)
    assert (len(buffer), buffer.dump()) == (0, None)


def test_an_empty_buffer_is_stored_as_nothing() -> None:
    assert len(ReadingBuffer.restore(None, Accounts(), UNIQUE)) == 0
