"""What the scanner reads, msgspec reads too and to the same values; what it leaves is rare."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operators import json_text
from operators.json_scan import Members, scan
from operators.json_text import DEPTH_MAX
from operators.texts import Texts
from tests.operators.edge_of_memory import at_the_edge

NAMES = ["a", "bb", "ü"]
KINDS: dict[int, type | tuple[type, ...]] = {
    json_text.TEXT: str,
    json_text.ESCAPED: str,
    json_text.NUMBER: (int, str),  # `str`: as its hook has it
    json_text.OBJECT: dict,
    json_text.LIST: list,
    json_text.TRUE: bool,
    json_text.FALSE: bool,
    json_text.NULL: type(None),
}
read = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
read_value = msgspec.json.Decoder(float_hook=str).decode

TEXTS = st.text(st.sampled_from('ab"\\\n\x00\x7fü😀{}[],:'), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.builds(
    lambda members, is_ascii, indent: json.dumps(members, ensure_ascii=is_ascii, indent=indent).encode(),
    st.dictionaries(st.sampled_from([*NAMES, "c"]), VALUES, max_size=4),
    st.booleans(),
    st.none() | st.integers(0, 2),
)
PIECES = st.sampled_from(
    [
        *b'{ } [ ] , : " \\ 0 1 - . e + true false null nul "a" "bb": {"a":1 {"c": {} [] [1,'.split(),
        *b"1.5e3 01 1. .5 --1 \\u00e9 \\ud83d \\ude00 \\q \xc3\xbc".split(),
        *(b" ", b"\t", b"\x01", b"\x0b"),
    ]
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    text = draw(OBJECTS)
    start = draw(st.integers(0, len(text)))
    end = min(len(text), start + draw(st.integers(0, 4)))
    return text[:start] + b"".join(draw(st.lists(PIECES, max_size=3))) + text[end:]


def scanned(*objects: bytes, behind: int = 0) -> Members:
    """With so many bytes behind the last: only where 32 are there can they be read at once."""
    laid = Texts.of(objects)
    data = np.frombuffer(laid.data.tobytes() + b'"' * behind, np.uint8)
    return scan(Texts(data, laid.start, laid.end), Texts.of([name.encode() for name in NAMES]))


def found(members: Members, row: int) -> dict[str, tuple[int, bytes]]:
    """Kind and text of each member that is there."""
    texts = {name: list(members.texts(at)) for at, name in enumerate(NAMES)}
    kinds = {name: int(members.kind[at, row]) for at, name in enumerate(NAMES)}
    return {name: (kind, texts[name][row]) for name, kind in kinds.items() if kind != json_text.ABSENT}


@settings(max_examples=2_000)
@given(
    st.lists(st.one_of(OBJECTS, mangled(), st.lists(PIECES, max_size=12).map(b"".join)), max_size=4),
    st.sampled_from([0, 32]),
)
@example([b'{"a":"\\ud83d\\ude00"}', b'{"a":"\\ud83d"}', b'{"a":"\\ude00"}', b'{"a":"\\ud83dx"}'], 0)
@example([b'{"a":"\\ud83d\\u00e9"}', b'{"a":"\\u00g0"}', b'{"a":"\\u00', b'{"a":"\\', b'{"a":"x'], 32)
@example([b'{"a":1,"bb":2}', b'{"a": 1,"bb":2}', b'{"a":1, "bb" :2}', b'{"b":1,"bb":2}', b'{"a":"1","bb'], 32)
@example([b'{"a":"%s","bb":"%s"}' % (b"x" * 31, b"y" * 32), b'{"a":"%s","c":""}' % (b"x" * 64)], 32)
def test_what_is_read_is_what_msgspec_reads(objects: list[bytes], behind: int) -> None:
    members = scanned(*objects, behind=behind)
    for each, alone in enumerate(objects):
        assert members.is_read[each] == scanned(alone, behind=behind).is_read[0]
    for row in np.flatnonzero(members.is_read).tolist():
        if not is_utf8(objects[row]):
            continue
        expected = {name: bytes(raw) for name, raw in read(objects[row]).items() if name in NAMES}
        assert {name: quoted(*value) for name, value in found(members, row).items()} == expected
        for name, (kind, _) in found(members, row).items():
            assert isinstance(read_value(expected[name]), KINDS[kind])


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def quoted(kind: int, text: bytes) -> bytes:
    return b'"%s"' % text if kind in (json_text.TEXT, json_text.ESCAPED) else text


@given(OBJECTS, st.sampled_from([0, 32]))
def test_every_object_is_read_but_for_names_with_escapes(text: bytes, behind: int) -> None:
    (is_read,) = scanned(text, behind=behind).is_read.tolist()
    assert is_read == (not text.isascii() or "ü" not in json.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        *b"""[] 1 {"a":1}{} {"a":1}, {"a":1,} {,"a":1} {"a"1} {"a":} {'a':1} {"a":1 {"a":NaN}""".split(),
        *b'{"a":01} {"a":1.} {"a":.5} {"a":+1} {"a":1e} {"a":-} {"a":tru} {"a":nulL} {"a":[1,]}'.split(),
        *b'{"a":[} {"a":{]} {"a":{"b"}} {"a":{"b":1,}} {"a":{1:2}} {"a":[1} {"a":1,"a":2}'.split(),
        *(b"", b'{"a":[1 2]}', b'{"a":"\x1f"}', b'{"a" 1}', b'{"\\u0061":1}', b'{"a":"\\x41"}', b'{"a":"x}'),
    ],
)
def test_what_is_not_read(text: bytes) -> None:
    for behind in (0, 32):
        members = scanned(b"{}", text, b'{"bb":2}', behind=behind)
        assert members.is_read.tolist() == [True, False, True]


def test_nothing_is_read_past_the_end() -> None:
    text = b'{"a":"%s","long name of a member":-1.5e+3,"bb":[{"c":"\\u00e9"},true,null]}' % (b"x" * 40)
    names = Texts.of([name.encode() for name in NAMES])
    for size in range(1, len(text) + 1):  # cut anywhere
        with at_the_edge([text[:size]] * 2) as objects:
            assert scan(objects, names).is_read.tolist() == [size == len(text)] * 2


def test_levels_past_the_limit_are_left() -> None:
    for levels, is_read in ((DEPTH_MAX, True), (DEPTH_MAX + 1, False)):
        lists = b"[" * levels + b"]" * levels
        objects = b'{"x":' * levels + b"1" + b"}" * levels
        members = scanned(*(b'{"a":%s}' % value for value in (lists, objects)))
        assert members.is_read.tolist() == [is_read, is_read]
