"""RFC 3339 text to milliseconds since 1970, one or a batch at a time.

texts -> int64 milliseconds, floored; `INVALID_MS` where a text is no timestamp. A zone is required; `T` may
be a space and letters may be small (RFC 3339 5.6); up to 9 digits of a second; second 60 is refused, as
Python does; years 1970 to 2299, within the range of ClickHouse's DateTime64.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from operators.compiled import compiled
from operators.raw_bytes import WIDTH, Address, same_ahead
from operators.texts import Bytes, Texts
from schemas.events import APPEND_MS_MAX
from schemas.usage import I64

INVALID_MS: Final = -1
TIMESTAMP_MS_MAX: Final = APPEND_MS_MAX

Milliseconds = npt.NDArray[np.int64]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_RFC_3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)

_FORM: Final = np.frombuffer(b"0000-00-00T00:00:00", np.uint8)
_T_PLACE: Final = 10
_FRACTION_DIGITS_MAX: Final = 9
_DAYS: Final = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""Of each month, in leap years."""
_DAYS_TO_1970: Final = 719_468
"""From 1 March of the year 0."""
_ZERO, _POINT, _SPACE, _PLUS, _MINUS, _COLON = map(ord, "0. +-:")
_SMALL: Final = 32
"""The bit of ASCII that makes a letter small."""
_T, _Z = ord("t"), ord("z")
_NONE: Final = -(1 << 40)
"""What is no number."""


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


def parse_timestamps(texts: Texts) -> Milliseconds:
    """`parse_timestamp` of each text: 80 ns a row, 20 of the second that the row before has."""
    return _parse(texts.data, texts.start, texts.end)


@compiled
def _parse(data: Bytes, starts: I64, ends: I64) -> Milliseconds:
    parsed = np.empty(len(starts), np.int64)
    base: Address = data.ctypes.data
    wide_max: Address = base + len(data) - WIDTH
    # A second that was read, where it stood: most texts of a batch are of the same one as the text before.
    seen_at, seen = base, _NONE
    for row in range(len(starts)):
        at, end = starts[row] + len(_FORM), ends[row]
        text = base + starts[row]
        is_seen = seen != _NONE and text <= wide_max and at <= end and same_ahead(text, seen_at) >= len(_FORM)
        seconds = seen if is_seen else _seconds(data, starts[row], end)
        if text <= wide_max:
            seen_at, seen = text, seconds
        milliseconds = 0
        if seconds != _NONE and at < end and data[at] == _POINT:
            digits = 0
            while digits < _FRACTION_DIGITS_MAX and at + 1 < end and 0 <= data[at + 1] - _ZERO <= 9:
                if digits < 3:
                    milliseconds += (data[at + 1] - _ZERO) * 10 ** (2 - digits)
                at, digits = at + 1, digits + 1
            at = at + 1 if digits else end
        offset = _offset_seconds(data, at, end)
        ms = (seconds - offset) * 1000 + milliseconds
        is_valid = _NONE not in (seconds, offset) and 0 <= ms <= TIMESTAMP_MS_MAX
        parsed[row] = ms if is_valid else INVALID_MS
    return parsed


@compiled
def _seconds(data: Bytes, at: int, end: int) -> int:
    """Seconds since 1970 of the date and time that stand there, without a zone."""
    if end - at < len(_FORM):
        return _NONE
    for place in range(len(_FORM)):
        byte, wanted = data[at + place], _FORM[place]
        if wanted == _ZERO:
            is_right = 0 <= byte - _ZERO <= 9
        else:
            is_right = byte == wanted or (place == _T_PLACE and (byte in (_T, _SPACE)))
        if not is_right:
            return _NONE
    year, month, day = _number(data, at, 4), _number(data, at + 5, 2), _number(data, at + 8, 2)
    hour, minute, second = _number(data, at + 11, 2), _number(data, at + 14, 2), _number(data, at + 17, 2)
    if month < 1 or month > 12 or day < 1 or day > _DAYS[month] or hour > 23 or minute > 59 or second > 59:
        return _NONE
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if month == 2 and day == 29 and not is_leap:
        return _NONE
    # Years begin in March, so that a leap day is the last (H. Hinnant, chrono-Compatible Date Algorithms).
    years = year - (month <= 2)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    days = years * 365 + years // 4 - years // 100 + years // 400 + day_of_year - _DAYS_TO_1970
    return ((days * 24 + hour) * 60 + minute) * 60 + second


@compiled
def _offset_seconds(data: Bytes, at: int, end: int) -> int:
    """Seconds of the zone that stands there and ends the text: `Z`, `+hh:mm` or `-hh:mm`."""
    if end - at == 1 and data[at] | _SMALL == _Z:
        return 0
    if end - at != len("+00:00") or data[at] not in (_PLUS, _MINUS) or data[at + 3] != _COLON:
        return _NONE
    for place in (1, 2, 4, 5):
        if not 0 <= data[at + place] - _ZERO <= 9:
            return _NONE
    hours, minutes = _number(data, at + 1, 2), _number(data, at + 4, 2)
    if hours > 23 or minutes > 59:
        return _NONE
    seconds = (hours * 60 + minutes) * 60
    return seconds if data[at] == _PLUS else -seconds


@compiled
def _number(data: Bytes, at: int, digits: int) -> int:
    number = 0
    for byte in data[at : at + digits]:
        number = number * 10 + (byte - _ZERO)
    return number
