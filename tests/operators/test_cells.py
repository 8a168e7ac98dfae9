"""Cells against a dict of exact sums."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.accounts import ACCOUNTS_MAX
from operators.aggregate import to_decimals
from operators.cells import Cells, StoredCells
from operators.folds import METERS_MAX, MINUTE_BITS, Folded, pack, sum_by_key, unpack
from operators.hyperloglog import UniqueSketch
from schemas.usage import I64, U64

LIMIT = 10**30 - 1
"""The largest value in units of 10^-12."""

Place = tuple[int, int, int]
"""account, meter, minute"""
Row = tuple[Place, int, int]
"""place, units, token"""

places = st.tuples(
    st.sampled_from([0, 1, 2, ACCOUNTS_MAX - 1]),
    st.sampled_from([0, 1, METERS_MAX - 1]),
    st.sampled_from([0, 1, 29_900_000, (1 << MINUTE_BITS) - 1]),
)
rows_of_any_kind = st.lists(
    st.tuples(places, st.integers(-LIMIT, LIMIT) | st.integers(-3, 3), st.integers(0, 2**64 - 1)),
    min_size=1,
    max_size=20,
)


@dataclass
class Total:
    events: int = 0
    units: int = 0
    tokens: set[int] = field(default_factory=set)


def key_of(place: Place) -> U64:
    account, meter, minute = (np.array([one], np.uint64) for one in place)
    return pack(account, meter, minute)


def part(rows: list[Row]) -> tuple[U64, U64, I64, U64]:
    return (
        np.concatenate([key_of(place) for place, _, _ in rows]),
        np.array([units & (1 << 64) - 1 for _, units, _ in rows], np.uint64),
        np.array([units >> 64 for _, units, _ in rows], np.int64),
        np.array([token for _, _, token in rows], np.uint64),
    )


def folded(*parts: list[Row]) -> Folded:
    return sum_by_key(*(np.concatenate(column) for column in zip(*map(part, parts), strict=True)))


UNIQUE = np.arange(METERS_MAX) % 2 == 1


def content(cells: Cells) -> dict[Place, Total]:
    columns = zip(
        *(column.tolist() for column in unpack(cells.key)),
        cells.events.tolist(),
        cells.lo.tolist(),
        cells.hi.tolist(),
        cells.key.tolist(),
        strict=True,
    )
    return {
        (account, meter, minute): Total(
            events,
            (hi << 64) + lo,
            {cells.uniques(key).count()} - {0},
        )
        for account, meter, minute, events, lo, hi, key in columns
    }


def expected(rows: list[Row]) -> dict[Place, Total]:
    totals: dict[Place, Total] = {}
    for place, units, token in rows:
        total = totals.setdefault(place, Total())
        total.events += 1
        total.units += units
        total.tokens.add(token)
    for (_, meter, _), total in totals.items():
        total.tokens = {len(total.tokens)} if UNIQUE[meter] else set()
    return totals


@given(places)
def test_a_key_is_its_place(place: Place) -> None:
    assert tuple(int(column[0]) for column in unpack(key_of(place))) == place


def test_keys_sort_by_account_then_meter_then_time() -> None:
    ordered = [(0, 0, 9), (0, 1, 0), (0, 1, 1), (1, 0, 0), (ACCOUNTS_MAX - 1, 0, 0)]
    keys = [int(key_of(place)[0]) for place in ordered]
    assert keys == sorted(keys)


@settings(max_examples=80, deadline=None)
@given(st.lists(rows_of_any_kind, min_size=1, max_size=6), st.booleans(), st.sampled_from([0, 3, 2_048]))
def test_cells_hold_exact_totals_however_readings_are_buffered(
    batches: list[list[Row]], at_once: bool, small: int
) -> None:
    cells = Cells()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("operators.cells.SMALL", small)
        if at_once:
            cells.add(folded(*batches), UNIQUE)
        else:
            for rows in batches:
                cells.add(folded(rows), UNIQUE)
    assert len(cells) == len({place for rows in batches for place, _, _ in rows})
    assert content(cells) == expected([row for rows in batches for row in rows])
    assert (np.diff(cells.key.astype(object)) > 0).all()
    assert cells.dirty.all()


def test_only_changed_cells_are_dirty() -> None:
    cells = Cells()
    cells.add(folded([((1, 0, 5), 1, 0), ((1, 0, 7), 1, 0)]), UNIQUE)
    cells.dirty[:] = False
    cells.add(folded([((1, 0, 7), 1, 0), ((1, 0, 6), 1, 0)]), UNIQUE)
    assert dict(zip((int(minute) for minute in unpack(cells.key)[2]), cells.dirty.tolist(), strict=True)) == {
        5: False,
        6: True,
        7: True,
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(rows_of_any_kind, st.sampled_from(["take", "crash", "read"])), max_size=8),
    st.sampled_from([0, 2_048]),
)
def test_each_change_is_taken_once_with_all_that_the_cell_has(
    story: list[list[Row] | str], small: int
) -> None:
    told: list[Row] = [((account, 1, 0), 1, account) for account in range(100, 200)]
    cells, changed = Cells(), {place for place, _, _ in told}
    cells.add(folded(told), UNIQUE)  # so many that new ones wait beside them
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("operators.cells.SMALL", small)
        for turn in [*story, "take"]:
            if isinstance(turn, list):
                cells.add(folded(turn), UNIQUE)
                told += turn
                changed |= {place for place, _, _ in turn}
            elif turn == "crash":
                stored = msgspec.msgpack.encode(cells.dump())
                cells = Cells.restore(msgspec.msgpack.decode(stored, type=StoredCells))
            elif turn == "read":
                assert content(cells) == expected(told)
            else:
                assert cells.is_dirty == bool(changed)
                level = cells.take_dirty()
                states = cells.states(level).to_pylist()
                totals = expected(told)
                found = zip(*(c.tolist() for c in (*unpack(level.key), level.events)), states, strict=True)
                assert sorted(
                    (place, events, UniqueSketch.from_state(state).count()) for *place, events, state in found
                ) == sorted(
                    (list(place), totals[place].events, sum(totals[place].tokens)) for place in changed
                )
                changed.clear()
    assert content(cells) == expected(told)


def test_a_few_new_cells_wait_beside_many() -> None:
    """To put each among them at once would copy all of them for each."""
    cells = Cells()
    cells.add(folded([((account, 0, 5), 1, 0) for account in range(5_000)]), UNIQUE)
    many = cells.key
    for account in range(5_000, 5_000 + 5_000 // 8):
        cells.add(folded([((account, 0, 5), 1, 0)]), UNIQUE)
        assert cells._old.key is many
    assert len(cells.take_dirty()) == len(cells)
    cells.add(folded([((5_000, 0, 5), 1, 0)]), UNIQUE)
    assert cells.is_dirty
    assert cells.take_dirty().events.tolist() == [2]
    cells.add(folded([((0, 0, 6), 1, 0)]), UNIQUE)
    assert cells._old.key is not many
    assert len(cells) == len(cells._old) == 5_000 + 5_000 // 8 + 1


def test_forgotten_cells_take_their_tokens_along() -> None:
    cells = Cells()
    cells.add(folded([((1, 1, 5), 1, 8), ((1, 1, 6), 2, 9), ((1, 0, 6), 4, 0)]), UNIQUE)
    cells.select(unpack(cells.key)[2] == 6)
    assert content(cells) == expected([((1, 1, 6), 2, 9), ((1, 0, 6), 4, 0)])


def test_cells_move_to_new_keys_with_all_they_have() -> None:
    cells = Cells()
    cells.add(folded([((1, 1, 5), 1, 8), ((2, 1, 5), 2, 9), ((2, 1, 5), 2, 10), ((3, 3, 5), 4, 0)]), UNIQUE)
    cells.dirty[:] = [True, False, True]
    account, meter, minute = (column.astype(np.uint64) for column in unpack(cells.key))
    swapped = np.array([0, 9, 5, 1], np.uint64)[account]
    cells.rekey(pack(swapped, meter, minute))
    assert content(cells) == expected(
        [((9, 1, 5), 1, 8), ((5, 1, 5), 2, 9), ((5, 1, 5), 2, 10), ((1, 3, 5), 4, 0)]
    )
    assert (np.diff(cells.key.astype(object)) > 0).all()
    assert cells.dirty.tolist() == [True, False, True]
    cells.add(folded([((9, 1, 5), 1, 11)]), UNIQUE)
    assert content(cells)[9, 1, 5] == Total(2, 2, {2})


def test_part_of_what_was_folded_keeps_its_readings() -> None:
    whole = folded([((1, 1, 5), 1, 8), ((2, 1, 5), 2, 9), ((1, 1, 5), 3, 10)])
    cells = Cells()
    cells.add(whole.select(np.array([True, False])), UNIQUE)
    assert content(cells) == {(1, 1, 5): Total(2, 4, {2})}
    assert to_decimals(cells.lo, cells.hi) == [Decimal("0.000000000004")]
