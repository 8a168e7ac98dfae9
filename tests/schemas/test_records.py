"""Records in columns against the same ones as objects."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Headers, Record, Records

some_headers = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3)
some_records = st.lists(
    st.tuples(st.none() | st.binary(max_size=20), st.none() | st.binary(max_size=5), some_headers), max_size=5
)


def objects(contents: list[tuple[bytes | None, bytes | None, Headers]], first: int = 0) -> list[Record]:
    return [
        cast(
            "Record",
            Message(value=value, key=key, headers=headers, offset=first + at, timestamp=(1, 1000 + at)),  # type: ignore[arg-type]  # a value may be None
        )
        for at, (value, key, headers) in enumerate(contents)
    ]


def content(record: Record) -> tuple[object, ...]:
    return record.value(), record.key() or b"", record.headers() or [], record.offset(), record.timestamp()[1]


@given(some_records, some_records)
def test_columns_are_the_records_that_they_were_made_of(
    contents: list[tuple[bytes | None, bytes | None, Headers]],
    more: list[tuple[bytes | None, bytes | None, Headers]],
) -> None:
    first, second = objects(contents), objects(more, 100)
    both = Records.concat([Records.of(first), Records.of(second)])
    assert [content(record) for record in both] == [content(record) for record in [*first, *second]]
    assert Records.of(both) is both
    assert not both.data.flags.writeable


def test_some_of_the_records() -> None:
    records = Records.of(objects([(b"a", None, []), (None, b"k", []), (b"c", None, [("h", b"")])]))
    assert [record.value() for record in records.select(np.array([True, False, True]))] == [b"a", b"c"]
    assert [record.value() for record in records[1:]] == [None, b"c"]
    assert records[-1].headers() == [("h", b"")]
    with pytest.raises(IndexError):
        records[3]
