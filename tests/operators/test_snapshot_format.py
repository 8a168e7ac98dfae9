"""Columns in a snapshot are what they were, in as few bytes as hold them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.snapshot_format import StoredIntegers

int64 = st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.lists(int64 | st.integers(-300, 300)))
def test_a_column_is_read_as_it_was(values: list[int]) -> None:
    stored = msgspec.msgpack.encode(StoredIntegers.of(np.array(values, np.int64)))
    column = msgspec.msgpack.decode(stored, type=StoredIntegers).read()
    assert column.dtype == np.int64
    assert column.tolist() == values
    column[:] = 0  # it is a copy


@pytest.mark.parametrize(
    ("spread", "size"), [(0, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 4), (1 << 32, 8)]
)
@pytest.mark.parametrize("base", [0, -1, 1_794_000_000_000])
def test_a_column_takes_the_bytes_that_its_spread_asks_for(base: int, spread: int, size: int) -> None:
    assert len(StoredIntegers.of(np.array([base, base + spread], np.int64)).data.tobytes()) == 2 * size
