"""RFC 3339 text to milliseconds since 1970, a batch at a time.

texts -> int64 milliseconds, floored; `INVALID_MS` where a text is no timestamp. A zone is required; `T` may
be a space and letters may be small (RFC 3339 5.6); up to 9 digits of a second; second 60 is refused, as Arrow
and Python do; years 1970 to 2299, within the range of ClickHouse's DateTime64.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.events import APPEND_MS_MAX

INVALID_MS = -1
TIMESTAMP_MS_MAX = APPEND_MS_MAX

Milliseconds = npt.NDArray[np.int64]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_RFC_3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_TEXT_LENGTH_MIN = len("2026-11-23T09:30:00Z")
FEW = 8
"""Rows that are parsed one by one when Arrow refuses one of them."""
_NANOSECONDS = pa.timestamp("ns", "UTC")
_COLON, _Z = ord(":"), ord("Z")


def parse_timestamp(text: str) -> int:
    """Milliseconds since 1970 of one text, else `INVALID_MS`."""
    match = _RFC_3339.fullmatch(text)
    if match is None:
        return INVALID_MS
    *numbers, fraction, sign, hours, minutes = match.groups()
    year, month, day, hour, minute, second = map(int, numbers)
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        if sign is not None:
            if int(hours) > 23 or int(minutes) > 59:
                return INVALID_MS
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            at += offset if sign == "-" else -offset
    except (ValueError, OverflowError):
        return INVALID_MS
    ms = (at - _EPOCH) // _MS + int((fraction or "")[:3].ljust(3, "0"))
    return ms if 0 <= ms <= TIMESTAMP_MS_MAX else INVALID_MS


def parse_timestamps(texts: Sequence[str | None], missing_ms: Milliseconds) -> Milliseconds:
    """`parse_timestamp` of each text; where it is None, the row of `missing_ms`.

    Arrow parses the batch at once (0.1 us a row). When it refuses one text it refuses all, so it is asked
    again for each half, down to a few rows that are parsed one by one (3 us): what Arrow refuses, such as
    30 February, small letters or a year after 2262, costs itself and some 0.1 us a row of its batch.
    """
    column = pa.array(texts, pa.string())
    ms = _parse(column)
    if not column.null_count:
        return ms
    return np.where(column.is_null().to_numpy(zero_copy_only=False), missing_ms, ms)


def _parse(column: pa.StringArray) -> Milliseconds:
    try:
        return _cast(column)
    except pa.ArrowInvalid:
        if len(column) <= FEW:
            return np.array([parse_timestamp(text or "") for text in column.to_pylist()], np.int64)
        half = len(column) // 2
        return np.concatenate([_parse(column.slice(0, half)), _parse(column.slice(half))])


def _cast(column: pa.Array) -> Milliseconds:
    """By Arrow, which raises ArrowInvalid for all when one is no timestamp; null is `INVALID_MS`."""
    ns = column.cast(_NANOSECONDS)
    ms: Milliseconds = np.frombuffer(ns.buffers()[1], np.int64, len(ns), 8 * ns.offset) // 1_000_000
    return np.where(_is_whole(column) & (ms >= 0), ms, INVALID_MS)  # null is not whole


def _is_whole(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Which texts have seconds and an offset with a colon, which Arrow does not ask for and RFC 3339 does.

    Of what Arrow parses, `09:30Z` and `09Z` lack the colon at 16 or are too short, and only `Z` and `+hh:mm`
    end in `Z` or have a colon at -3.
    """
    _, offsets_buffer, data_buffer = column.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32, len(column) + 1, 4 * column.offset)
    start, end = offsets[:-1], offsets[1:]
    long_enough: npt.NDArray[np.bool_] = (end - start) >= _TEXT_LENGTH_MIN
    if not long_enough.any():
        return long_enough
    data = np.frombuffer(data_buffer, np.uint8)
    if not long_enough.all():
        start, end = np.where(long_enough, start, 0), np.where(long_enough, end, _TEXT_LENGTH_MIN)
    whole: npt.NDArray[np.bool_] = data[start + 16] == _COLON
    whole &= (data[end - 1] == _Z) | (data[end - 3] == _COLON)
    return whole & long_enough
