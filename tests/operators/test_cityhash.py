"""Hashes of strings against ClickHouse's own `cityHash64`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.cityhash import city_hash64

Query = Callable[[str], bytes]


def hashes_by_clickhouse(rowbinary: Query, values: list[bytes]) -> list[int]:
    literals = ",".join(f"unhex('{value.hex()}')" for value in values)
    hashes: list[int] = np.frombuffer(
        rowbinary(f"SELECT cityHash64(arrayJoin([{literals}]))"), "<u8"
    ).tolist()
    return hashes


def test_a_string_of_every_length_hashes_as_in_clickhouse(rowbinary: Query) -> None:
    noise = np.random.default_rng(1).bytes(100_000)
    values = [noise[at * 7 : at * 7 + size] for at, size in enumerate([*range(301)] * 3)]
    for type_ in (pa.binary(), pa.large_binary()):
        assert city_hash64(pa.array(values, type_)).tolist() == hashes_by_clickhouse(rowbinary, values)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(max_size=80), min_size=1, max_size=20), st.data())
def test_texts_and_slices_hash_as_in_clickhouse(
    rowbinary: Query, texts: list[str], data: st.DataObject
) -> None:
    expected = hashes_by_clickhouse(rowbinary, [text.encode() for text in texts])
    first = data.draw(st.integers(0, len(texts)))
    length = data.draw(st.integers(0, len(texts)))
    for type_ in (pa.string(), pa.large_string()):
        column = pa.array(texts, type_)
        assert city_hash64(column).tolist() == expected
        assert city_hash64(column.slice(first, length)).tolist() == expected[first : first + length]


def test_only_strings_without_nulls_have_hashes() -> None:
    with pytest.raises(ValueError, match="1 of 2 values"):
        city_hash64(pa.array(["a", None]))
    with pytest.raises(TypeError, match="not int64"):
        city_hash64(pa.array([1]))
    assert city_hash64(pa.array([], pa.string())).tolist() == []
