"""Columns of texts, however they lie."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.texts import CODES_MAX, Texts
from schemas.arrow import NAME

texts = st.lists(st.text(max_size=4), max_size=8)


@given(texts, st.lists(st.integers(0, 7), max_size=8))
def test_rows_in_any_order_are_the_column_that_they_say(found: list[str], rows: list[int]) -> None:
    rows = [row for row in rows if row < len(found)]
    selected = Texts.of([text.encode() for text in found]).select(np.array(rows, np.int64))
    assert selected.column().to_pylist() == [found[row] for row in rows]
    assert selected.names().to_pylist() == [found[row] for row in rows]
    assert [text.decode() for text in selected] == [found[row] for row in rows]
    assert selected.sizes.tolist() == [len(found[row].encode()) for row in rows]


@given(texts, st.integers(0, 8), st.integers(0, 8))
def test_a_column_is_taken_where_it_lies(found: list[str], first: int, length: int) -> None:
    column = pa.array(found, pa.string()).slice(first, length)
    assert Texts.of_column(column).column().to_pylist() == found[first : first + length]


@given(texts, texts)
def test_which_texts_are_one_of_some(found: list[str], wanted: list[str]) -> None:
    column, values = (Texts.of([text.encode() for text in some]) for some in (found, wanted))
    assert column.are(values).tolist() == [text in wanted for text in found]


@pytest.mark.parametrize("count", [1, CODES_MAX, CODES_MAX + 1, 5 * CODES_MAX])
def test_names_are_each_kept_once_however_many_they_are(count: int) -> None:
    found = [f"name {number % count}" for number in range(3 * count)]
    names = Texts.of([name.encode() for name in found]).names()
    assert (names.type, len(names.dictionary), names.to_pylist()) == (NAME, count, found)
