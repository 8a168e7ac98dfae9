"""Payloads that no producer should send, and good events under names that no producer should have; by seed.

Random bytes, truncated and deeply nested JSON, numbers of any size, NaN, megabytes, broken UTF-8, types;
names that mean something to SQL, Redis, Lua, a shell, a format string or a terminal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from dataflows.workload import Produced

NAMES = (
    *("'; DROP TABLE usage_events; --", "a' OR '1'='1", 'quo"ted', "back\\slash", "`tick`", "/* c */", "x;y"),
    *(
        "{tag}:x",
        "}{",
        ":",
        "a:b:c",
        "%",
        "%7B%3A",
        "%s%d%n",
        "{0.__class__}",
        "$(reboot)",
        "*?[a-z]",
        "wallet:*",
    ),
    *("line\nbreak", "\r\n$3\r\nfoo\r\n", "nul\x00byte", "\x00", "\x1b[2J", "tab\t", " ", "\u202e", "\ufeff"),
    *("ünïcödé", "漢字", "🚀", "\U0010ffff", "é" * 128, "n" * 256, "null", "NaN", "-0", "[]", "__proto__"),
)
"""Strange, and allowed: 1 to 256 bytes of UTF-8."""

VALUES: tuple[Any, ...] = (None, True, [], {}, "", [[]], {"a": [1]}, -1, 1.5, "x" * 2000, "NaN", "1e999", "٣")
NUMBERS = (
    *(b"NaN", b"-Infinity", b"1e400", b"-1e-400", b"1e18", b"9" * 4000, b"0." + b"3" * 900, b"1e99999999999"),
    *(b"01", b"1.", b"+1", b"0x10", b"--1", b"1e", b'"1e17"', b'"9999999999999999999"', b"-0.0", b"1_000"),
)
FIELDS = ("id", "tenant_id", "event_name", "external_customer_id", "timestamp", "source", "properties")
MEGABYTE = 1_000_000


def random_bytes(chance: random.Random, event: bytes) -> bytes:
    return chance.randbytes(chance.randrange(300))


def truncated(chance: random.Random, event: bytes) -> bytes:
    return event[: chance.randrange(len(event))]


def bit_flipped(chance: random.Random, event: bytes) -> bytes:
    at = chance.randrange(40, len(event))  # behind the id: two customers with one id are no repeats
    return event[:at] + bytes([event[at] ^ 1 << chance.randrange(8)]) + event[at + 1 :]


def nested(chance: random.Random, event: bytes) -> bytes:
    depth = chance.choice([255, 256, 1_000, 50_000])
    opening, closing = chance.choice([(b"[", b"]"), (b'{"a":', b"}")])
    value = opening * depth + b"1" + closing * chance.choice([depth, 0])
    return chance.choice([value, event.replace(b'"properties":{', b'"properties":{"deep":' + value + b",")])


def number(chance: random.Random, event: bytes) -> bytes:
    field = chance.choice([b"tokens", b"gb_hours", b"latency_ms", b"id"])
    return event.replace(b'"properties":{', b'"properties":{"%b":%b,' % (field, chance.choice(NUMBERS)))


def wrong_type(chance: random.Random, event: bytes) -> bytes:
    field, value = chance.choice(FIELDS), chance.choice(VALUES)
    if field == "id" and isinstance(value, str):
        value = chance.choice([7, [value]])
    return orjson.dumps(orjson.loads(event) | {field: value})


def broken_text(chance: random.Random, event: bytes) -> bytes:
    broken = chance.choice(
        [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\\ud800", b"\\x", b"\x01"]
    )
    return event.replace(b'"id":"', b'"id":"' + broken)


def renamed(chance: random.Random, event: bytes) -> bytes:
    """A good event under strange names; its id stays its own."""
    fields = orjson.loads(event)
    fields["id"] = f"{fields['id']} {chance.choice(NAMES)}"[:64]
    for field in ("tenant_id", "external_customer_id", "source"):
        fields[field] = chance.choice(NAMES)
    fields["properties"] = fields["properties"] | {"user_id": chance.choice(NAMES), chance.choice(NAMES): "x"}
    return orjson.dumps(fields)


def large(chance: random.Random, event: bytes) -> bytes:
    size = chance.choice([MEGABYTE // 2, MEGABYTE])
    return event.replace(b'"properties":{', b'"properties":{"note":"' + b"x" * size + b'",')


KINDS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(random_bytes, truncated, bit_flipped, nested, number, wrong_type, broken_text, renamed, renamed),
)
LARGE_ONE_IN = 1000


def hostile(seed: int, events: Iterator[Produced]) -> Iterator[bytes]:
    """Payloads without end, each made of a good event of its own."""
    chance = random.Random(seed)
    for event in events:
        if b'"external_customer_id"' not in event.value or b'"properties":{' not in event.value:
            continue  # one of the rarer forms of an event
        make = large if chance.randrange(LARGE_ONE_IN) == 0 else chance.choice(KINDS)
        yield make(chance, event.value)
