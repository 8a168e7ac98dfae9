"""The batch parser of timestamps equals the parser of one, and both equal the calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.texts import Texts
from operators.timestamps import INVALID_MS, TIMESTAMP_MS_MAX, parse_timestamp, parse_timestamps
from tests.operators.edge_of_memory import at_the_edge

TEXTS = st.one_of(
    st.text(),
    st.from_regex(r"\A\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,11})?([Zz]|[+-]\d\d:\d\d)\Z"),
    st.from_regex(
        r"\A20[0-4]\d-[01]\d-[0-3]\d[Tt ][0-2]\d(:[0-5]\d(:[0-6]\d(\.\d{1,9})?)?)?([Zz]|[+-]\d\d(:?\d\d)?)\Z"
    ),
    st.datetimes(timezones=st.just(UTC)).map(lambda at: at.isoformat().replace("+00:00", "Z")),
)


@given(st.lists(TEXTS))
def test_a_batch_is_parsed_as_its_texts_are(texts: list[str]) -> None:
    assert parsed(*texts) == [parse_timestamp(text) for text in texts]


@given(TEXTS, st.lists(st.tuples(st.integers(0, 30), st.sampled_from("019:-.TZ ")), max_size=3))
def test_a_text_is_parsed_as_if_none_were_before(text: str, changes: list[tuple[int, str]]) -> None:
    texts = [text]
    for place, letter in changes:
        texts += [text[:place] + letter + text[place + 1 :], text[:place], text]
    assert parsed(*texts, " " * 32)[:-1] == [parse_timestamp(each) for each in texts]


def test_nothing_is_read_past_the_end() -> None:
    text = "2026-11-23T09:30:00.123456789+02:00"
    for size in range(1, len(text) + 1):  # cut anywhere
        with at_the_edge([text[:size].encode()] * 3) as texts:
            assert parse_timestamps(texts).tolist() == [parse_timestamp(text[:size])] * 3


def parsed(*texts: str) -> list[int]:
    return list(map(int, parse_timestamps(Texts.of([text.encode() for text in texts]))))


def test_every_day_of_the_calendar_is_parsed() -> None:
    first, days = datetime(1970, 1, 1, tzinfo=UTC), 330 * 365
    texts = [(first + timedelta(days=day)).isoformat() for day in range(days)]
    assert parsed(*texts) == [day * 86_400_000 for day in range(days)]


@given(
    st.datetimes(datetime.fromisoformat("1970-01-02"), datetime.fromisoformat("2299-12-30")),
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_a_timestamp_is_floored_to_its_millisecond(local: datetime, offset_min: int) -> None:
    at = local.replace(tzinfo=timezone(timedelta(minutes=offset_min)))
    expected = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert parse_timestamp(at.isoformat()) == expected
    assert parsed(at.isoformat()) == [expected]


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("2026-11-23T09:30:00Z", 1_795_426_200_000),
        ("2026-11-23T09:30:00.1239999Z", 1_795_426_200_123),
        ("2026-11-23 09:30:00.5+02:00", 1_795_419_000_500),
        ("2026-11-23t09:30:00.123456789z", 1_795_426_200_123),
        ("1970-01-01T00:00:00Z", 0),
        ("2299-12-31T23:59:59.999999999Z", TIMESTAMP_MS_MAX),
        ("1970-01-01T00:00:00+00:01", INVALID_MS),
        ("2300-01-01T00:00:00Z", INVALID_MS),
        ("0001-01-01T00:00:00+23:59", INVALID_MS),
        ("9999-12-31T23:59:59-23:59", INVALID_MS),
        ("2026-02-29T00:00:00Z", INVALID_MS),
        ("2016-12-31T23:59:60Z", INVALID_MS),
        ("2026-11-23T24:00:00Z", INVALID_MS),
        ("2026-11-23T09:30Z", INVALID_MS),
        ("2026-11-23T09+02:00", INVALID_MS),
        ("2026-11-23T09:30:00", INVALID_MS),
        ("2026-11-23T09:30:00+0200", INVALID_MS),
        ("2026-11-23T09:30:00+02", INVALID_MS),
        ("2026-11-23T09:30:00+24:00", INVALID_MS),
        ("2026-11-23T09:30:00+01:60", INVALID_MS),
        ("2026-11-23T09:30:00.1234567890Z", INVALID_MS),
        ("2026-11-23T09:30:00.Z", INVALID_MS),
        ("2026-11-23", INVALID_MS),
        ("1795426200", INVALID_MS),
        (" 2026-11-23T09:30:00Z", INVALID_MS),
        ("2026-11-23T09:30:00Z\n", INVALID_MS),
        ("\uff12026-11-23T09:30:00Z", INVALID_MS),
    ],
)
def test_what_rfc_3339_with_a_zone_is(text: str, expected_ms: int) -> None:
    assert parse_timestamp(text) == expected_ms
    assert parsed(text, "2026-11-23T09:30:00Z") == [expected_ms, 1_795_426_200_000]
