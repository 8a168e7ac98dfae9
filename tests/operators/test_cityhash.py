"""Hashes of strings against ClickHouse's own `cityHash64`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.cityhash import city_hash64
from operators.texts import Texts

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
    assert city_hash64(Texts.of(values)).tolist() == hashes_by_clickhouse(rowbinary, values)


@settings(max_examples=40)
@given(st.lists(st.text(max_size=80), min_size=1, max_size=20), st.data())
def test_texts_and_slices_hash_as_in_clickhouse(
    rowbinary: Query, texts: list[str], data: st.DataObject
) -> None:
    expected = hashes_by_clickhouse(rowbinary, [text.encode() for text in texts])
    first = data.draw(st.integers(0, len(texts)))
    length = data.draw(st.integers(0, len(texts)))
    column = pa.array(texts, pa.string())
    assert city_hash64(Texts.of_column(column)).tolist() == expected
    part = column.slice(first, length)
    assert city_hash64(Texts.of_column(part)).tolist() == expected[first : first + length]
