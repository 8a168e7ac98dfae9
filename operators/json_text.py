"""JSON objects as RFC 8259 has them, read where they lie. Compiled; `operators.json_scan` says what for.

Positions are addresses (operators/raw_bytes.py). Texts, the most of what there is, are read 32 bytes at a
time, and a producer's events differ in their values only: what stands between two values is first compared
with what stood there in the event before. With both a scan takes 0.13 us instead of 0.38.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from operators.compiled import compiled
from operators.raw_bytes import WIDTH, Address, byte_at, plain_ahead, same_ahead
from operators.texts import Bytes
from schemas.usage import I64, Mask

DEPTH_MAX: Final = 60
"""Levels of lists and objects within an object; they are bits of a 64-bit integer."""

# Kinds of values: their first bytes, but for two.
ABSENT: Final = 0
TEXT, ESCAPED = ord('"'), ord("\\")
NUMBER: Final = ord("0")
OBJECT, LIST = ord("{"), ord("[")
TRUE, FALSE, NULL = ord("t"), ord("f"), ord("n")

_COLON, _COMMA, _MINUS, _PLUS, _POINT, _EXPONENT, _UNICODE, _OBJECT_END, _LIST_END = map(ord, ":,-+.eu}]")
_NINE, _TEN = ord("9"), ord("a") - 10
_HIGH_SURROGATES, _LOW_SURROGATES = 0xD800 >> 10, 0xDC00 >> 10
_WORDS, _WORD_ENDS = np.frombuffer(b"truefalsenull", np.uint8), (4, 9, 13)
_IS_BLANK, _IS_ESCAPE, _IS_HEX, _IS_DIGIT = (
    np.isin(np.arange(256, dtype=np.uint8), np.frombuffer(some, np.uint8))
    for some in (b" \t\n\r", b'"\\/bfnrt', b"0123456789abcdefABCDEF", b"0123456789")
)
_IS_PLAIN = np.array([byte >= 32 and byte not in b'"\\' for byte in range(256)])
"""Bytes of a string that need no thought."""
_NONE: Final = -1
"""The position where there is none: the text is not what it should be."""
_GUESSED: Final = 16
"""Members of an object whose names are guessed; the others share the last guess."""


@compiled
def scan_objects(  # noqa: PLR0912, PLR0915, PLR0917 - in one piece, as calls cost; compiled code takes arrays
    data: Bytes,
    starts: I64,
    ends: I64,
    names: Bytes,
    name_starts: I64,
    name_ends: I64,
    start: I64,
    end: I64,
    kind: Bytes,
) -> Mask:
    """Which objects are read; fills `start`, `end` and `kind` (names x objects), which are zeros."""
    is_read = np.zeros(len(starts), np.bool_)
    base: Address = data.ctypes.data
    wide_max: Address = base + len(data) - WIDTH  # the last place from which so many bytes are there
    # What stood before each value of the last objects: `"name":`, where, of what size, and which name it is.
    seen_at, seen_size, seen_name = np.zeros((3, _GUESSED), np.int64)
    for row in range(len(starts)):
        stop = base + ends[row]
        at = _past_blanks(base + starts[row], stop)
        if at >= stop or byte_at(at) != OBJECT:
            continue
        at = _past_blanks(at + 1, stop)
        if at < stop and byte_at(at) == _OBJECT_END:
            is_read[row] = _past_blanks(at + 1, stop) == stop
            continue
        member = 0
        while at < stop and byte_at(at) == TEXT:
            first = at + seen_size[member]
            is_guessed = at < first <= stop and at <= wide_max
            if is_guessed and same_ahead(at, seen_at[member]) >= seen_size[member]:
                number = seen_name[member]
            else:
                name = at
                at, is_escaped = _text_end(name + 1, stop, wide_max)
                if at == _NONE or is_escaped:
                    break
                number = _find(name + 1, at, names, name_starts, name_ends)
                at = _past_blanks(at + 1, stop)
                if at >= stop or byte_at(at) != _COLON:
                    break
                first = at + 1
                if name <= wide_max and first - name <= WIDTH:
                    seen_at[member], seen_size[member], seen_name[member] = name, first - name, number
            member = min(member + 1, _GUESSED - 1)
            first = _past_blanks(first, stop)
            if first < stop and byte_at(first) == TEXT:
                first += 1
                at, is_escaped = _text_end(first, stop, wide_max)
                found, after = ESCAPED if is_escaped else TEXT, at + 1
            else:
                at, found = _value_end(first, stop, wide_max)
                after = at
            if at == _NONE:
                break
            if number != _NONE:
                if kind[number, row] != ABSENT:
                    break
                start[number, row], end[number, row], kind[number, row] = first - base, at - base, found
            at = _past_blanks(after, stop)
            if at < stop and byte_at(at) == _OBJECT_END:
                is_read[row] = _past_blanks(at + 1, stop) == stop
                break
            if at >= stop or byte_at(at) != _COMMA:
                break
            at = _past_blanks(at + 1, stop)
    return is_read


@compiled
def _find(start: Address, end: Address, names: Bytes, name_starts: I64, name_ends: I64) -> int:
    """Which of the names stands there."""
    for number in range(len(name_starts)):
        first = name_starts[number]
        if name_ends[number] - first == end - start:
            same = 0
            while same < end - start and names[first + same] == byte_at(start + same):
                same += 1
            if same == end - start:
                return number
    return _NONE


@compiled
def _value_end(at: Address, end: Address, wide_max: Address) -> tuple[Address, int]:
    """Past the value that begins there, if it is no text, and its kind."""
    if at >= end:
        return _NONE, ABSENT
    first = byte_at(at)
    if first in (OBJECT, LIST):
        return _container_end(at, end, wide_max), first
    if first == _MINUS or _IS_DIGIT[first]:
        return _number_end(at, end), NUMBER
    return _word_end(at, end), first


@compiled
def _container_end(at: Address, end: Address, wide_max: Address) -> Address:  # noqa: PLR0911, PLR0912 - in one piece, as calls cost
    """Past the list or the object that begins there."""
    depth, objects, is_first = 1, int(byte_at(at) == OBJECT), True  # `objects`: a bit a level
    at += 1
    while True:
        at = _past_blanks(at, end)
        if at >= end:
            return _NONE
        byte = byte_at(at)
        is_value = not (is_first and byte == (_OBJECT_END if objects & 1 else _LIST_END))
        if is_value and objects & 1:
            if byte != TEXT:
                return _NONE
            at, _ = _text_end(at + 1, end, wide_max)
            if at == _NONE:
                return _NONE
            at = _past_blanks(at + 1, end)
            if at >= end or byte_at(at) != _COLON:
                return _NONE
            at = _past_blanks(at + 1, end)
            if at >= end:
                return _NONE
            byte = byte_at(at)
        if is_value:
            if byte == TEXT:
                at, _ = _text_end(at + 1, end, wide_max)
                if at != _NONE:
                    at += 1
            elif byte in (OBJECT, LIST):
                if depth == DEPTH_MAX:
                    return _NONE
                at, depth, objects, is_first = at + 1, depth + 1, objects * 2 + (byte == OBJECT), True
                continue
            elif byte == _MINUS or _IS_DIGIT[byte]:
                at = _number_end(at, end)
            else:
                at = _word_end(at, end)
            if at == _NONE:
                return _NONE
        while True:
            at = _past_blanks(at, end)
            if at >= end:
                return _NONE
            byte = byte_at(at)
            at += 1
            if byte == _COMMA:
                break
            if byte != (_OBJECT_END if objects & 1 else _LIST_END):
                return _NONE
            depth, objects = depth - 1, objects >> 1
            if depth == 0:
                return at
        is_first = False


@compiled
def _text_end(at: Address, end: Address, wide_max: Address) -> tuple[Address, bool]:
    """The closing quote of the text whose characters begin there, and whether there are escapes."""
    is_escaped = False
    while at < end:
        while at <= wide_max:
            ahead = plain_ahead(at)
            at += ahead
            if ahead < WIDTH or at >= end:
                break
        else:
            while at < end and _IS_PLAIN[byte_at(at)]:
                at += 1
        if at >= end:
            return _NONE, is_escaped
        if byte_at(at) == TEXT:
            return at, is_escaped
        at, is_escaped = _escape_end(at, end), True
        if at == _NONE:
            return _NONE, is_escaped
    return _NONE, is_escaped


@compiled
def _escape_end(at: Address, end: Address) -> Address:
    """Past the escape that begins there."""
    if byte_at(at) != ESCAPED or at + 1 >= end:
        return _NONE
    if _IS_ESCAPE[byte_at(at + 1)]:
        return at + 2
    unit = _utf16_unit(at, end)
    if unit == _NONE or unit >> 10 == _LOW_SURROGATES:
        return _NONE
    if unit >> 10 == _HIGH_SURROGATES:
        at += 6
        if _utf16_unit(at, end) >> 10 != _LOW_SURROGATES:
            return _NONE
    return at + 6


@compiled
def _utf16_unit(at: Address, end: Address) -> int:
    r"""The number of the escape `\uXXXX` that begins there."""
    if at + 6 > end or byte_at(at) != ESCAPED or byte_at(at + 1) != _UNICODE:
        return _NONE
    unit = 0
    for place in range(at + 2, at + 6):
        digit = byte_at(place)
        if not _IS_HEX[digit]:
            return _NONE
        unit = unit * 16 + (digit - NUMBER if digit <= _NINE else (digit | 32) - _TEN)
    return unit


@compiled
def _number_end(at: Address, end: Address) -> Address:
    """Past the number that begins there."""
    if at < end and byte_at(at) == _MINUS:
        at += 1
    if at < end and byte_at(at) == NUMBER:  # no digit follows a leading zero
        at += 1
    else:
        at = _digits_end(at, end)
    if at != _NONE and at < end and byte_at(at) == _POINT:
        at = _digits_end(at + 1, end)
    if at != _NONE and at < end and byte_at(at) | 32 == _EXPONENT:
        at += 1
        if at < end and (byte_at(at) == _PLUS or byte_at(at) == _MINUS):
            at += 1
        at = _digits_end(at, end)
    return at


@compiled
def _digits_end(at: Address, end: Address) -> Address:
    """Past the digits that begin there; there must be one."""
    first = at
    while at < end and _IS_DIGIT[byte_at(at)]:
        at += 1
    return at if at > first else _NONE


@compiled
def _word_end(at: Address, end: Address) -> Address:
    """Past the `true`, `false` or `null` that begins there."""
    first = 0
    for last in _WORD_ENDS:
        size = last - first
        if byte_at(at) == _WORDS[first] and at + size <= end:
            same = 1
            while same < size and byte_at(at + same) == _WORDS[first + same]:
                same += 1
            return at + size if same == size else _NONE
        first = last
    return _NONE


@compiled
def _past_blanks(at: Address, end: Address) -> Address:
    while at < end and _IS_BLANK[byte_at(at)]:
        at += 1
    return at
