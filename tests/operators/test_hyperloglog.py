"""Sketches against ClickHouse's own engine: uniqCombined64 with its State and Merge."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from operators.cityhash import city_hash64
from operators.hyperloglog import EMPTY_STATE, EXACT_MAX, UniqueSketch
from operators.texts import Texts
from schemas.usage import U64

Query = Callable[[str], bytes]
USERS = "(SELECT 'user-' || toString(number) AS user FROM numbers({}))"
AGAINST_CLICKHOUSE = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def tokens() -> U64:
    """The hashes of user-0 to user-999999."""
    return city_hash64(Texts.of([b"user-%d" % i for i in range(1_000_000)]))


def sketch_of(*parts: U64) -> UniqueSketch:
    sketch = UniqueSketch()
    for part in parts:
        sketch.add(part)
    return sketch


def ascending(state: bytes) -> bytes:
    """A small or medium state of ClickHouse's with its hashes in order; a large one as it is."""
    if state[0] == 3:
        return state
    start = 2 if state[1] < 0x80 else 3
    return state[:start] + np.sort(np.frombuffer(state, "<u8", offset=start)).tobytes()


def as_state(state: bytes) -> str:
    return f"CAST(unhex('{state.hex()}') AS AggregateFunction(uniqCombined64, String))"


def registers_by_hand(hashes: list[int]) -> bytes:
    """The large state, written with Python's integers from the layout's description."""
    ranks = dict.fromkeys(range(1 << 17), 0)
    for value in hashes:
        bucket, rest = value % (1 << 17), value >> 17
        rank = 1
        while rank < 48 and not rest & 1:
            rest >>= 1
            rank += 1
        ranks[bucket] = max(ranks[bucket], rank)
    quads = (sum(ranks[at + i] << 6 * i for i in range(4)) for at in range(0, 1 << 17, 4))
    of_rank = [list(ranks.values()).count(rank) for rank in range(49)]
    packed = b"".join(quad.to_bytes(3, "little") for quad in quads)
    return b"\x03" + packed + struct.pack("<50I", *of_rank, of_rank[0])


def in_table_order(hashes: list[int]) -> bytes:
    """Hashes as ClickHouse's hash table lists them, having got them in this order.

    It has 256 cells and puts a hash in the first free one from its low bits on. Over half full, it doubles
    and moves each hash, in order of its cell, by the same rule.
    """
    cells: list[int | None] = [None] * 256

    def place(value: int) -> None:
        at = value % len(cells)
        while cells[at] is not None and cells[at] != value:
            at = (at + 1) % len(cells)
        cells[at] = value

    def move(at: int) -> None:
        value, cells[at] = cells[at], None
        assert value is not None
        place(value)

    for used, value in enumerate(hashes, 1):
        place(value)
        if used > len(cells) // 2:
            at, half = 0, len(cells)
            cells += [None] * half
            while at < half or cells[at] is not None:
                if cells[at] is not None:
                    move(at)
                at += 1
    return struct.pack(f"<{len(hashes)}Q", *(value for value in cells if value is not None))


@pytest.mark.parametrize("order", ["ASC", "DESC"])
@pytest.mark.parametrize(
    "n", [0, 1, 2, 15, 16, 17, 127, 128, 129, 1000, 4095, 4096, 4097, 100_000, 1_000_000]
)
def test_a_state_is_the_one_clickhouse_writes(rowbinary: Query, tokens: U64, n: int, order: str) -> None:
    """To the byte, but for the order of up to 4096 hashes, which theirs has by arrival."""
    users = f"(SELECT user FROM {USERS.format(n)} ORDER BY cityHash64(user) {order})"
    theirs = rowbinary(f"SELECT uniqCombined64State(user) FROM {users}")
    ours = sketch_of(tokens[:n]).state()
    arrived = sorted(tokens[:n].tolist(), reverse=order == "DESC")
    head = ours[: -8 * n or None]
    if n <= 16:
        assert ours == theirs or order == "DESC"
        assert theirs == head + struct.pack(f"<{n}Q", *arrived)
    elif n <= EXACT_MAX:
        assert theirs == head + in_table_order(arrived)
    else:
        assert theirs == ours
    assert ours == ascending(theirs)
    assert ours[0] == (1 if n <= 16 else 2 if n <= EXACT_MAX else 3)


SIZES = st.one_of(st.integers(0, 40), st.integers(0, 3000), st.integers(3900, 12_000))
RANGES = st.lists(st.tuples(st.integers(0, 6000), SIZES), max_size=6)


@AGAINST_CLICKHOUSE
@given(RANGES, st.randoms(use_true_random=False))
def test_any_split_and_merge_order_gives_the_state_of_the_whole(
    rowbinary: Query, tokens: U64, ranges: list[tuple[int, int]], random: Random
) -> None:
    whole = sketch_of(*(tokens[start : start + size] for start, size in ranges))
    sketches = [sketch_of(tokens[start : start + size][::-1]) for start, size in ranges]
    sketches.append(UniqueSketch())
    while len(sketches) > 1:
        random.shuffle(sketches)
        other, one = sketches.pop(), sketches.pop()
        if random.random() < 0.3:
            one.compact()
        if random.random() < 0.3:
            other = UniqueSketch.from_state(other.state())
        unchanged = other.state()
        one.merge(other)
        assert other.state() == unchanged
        sketches.append(one)
    assert sketches[0].state() == whole.state()
    assert sketches[0].count() == whole.count()

    distinct = len({user for start, size in ranges for user in range(start, start + size)})
    assume(distinct != EXACT_MAX)  # the documented edge, tested below
    events = " UNION ALL ".join(
        f"SELECT 'user-' || toString(number) AS user FROM numbers({start}, {size})" for start, size in ranges
    )
    theirs = rowbinary(
        f"SELECT uniqCombined64State(user) FROM ({events or 'SELECT toString(1) AS user LIMIT 0'})"
    )
    assert whole.state() == ascending(theirs)


@AGAINST_CLICKHOUSE
@given(SIZES, SIZES, st.integers(0, 6000))
def test_clickhouse_merges_our_states_with_its_own(
    rowbinary: Query, tokens: U64, ours: int, theirs: int, overlap_from: int
) -> None:
    union = max(ours, overlap_from + theirs) if overlap_from <= ours else ours + theirs
    assume(union != EXACT_MAX)
    sketch = sketch_of(tokens[:ours])
    users = f"SELECT 'user-' || toString(number) AS user FROM numbers({overlap_from}, {theirs})"
    merged = rowbinary(
        f"SELECT uniqCombined64MergeState(state) FROM (SELECT {as_state(sketch.state())} AS state"
        f" UNION ALL SELECT uniqCombined64State(user) FROM ({users}))"
    )
    sketch.add(tokens[overlap_from : overlap_from + theirs])
    assert sketch.state() == ascending(merged)


def test_clickhouse_estimates_from_the_4096th_value_on_and_we_do_not(rowbinary: Query, tokens: U64) -> None:
    again = f"(SELECT user FROM {USERS.format(4096)} UNION ALL SELECT 'user-0')"
    assert rowbinary(f"SELECT uniqCombined64State(user) FROM {again}")[0] == 3
    sketch = sketch_of(tokens[:4096], tokens[:1])
    assert sketch.state()[0] == 2
    assert sketch.count() == 4096


@pytest.mark.parametrize("n", [4097, 6000, 20_000, 60_000, 131_072, 200_000, 350_000, 600_000, 1_000_000])
def test_an_estimate_is_within_the_documented_distance_of_clickhouse(
    rowbinary: Query, tokens: U64, n: int
) -> None:
    theirs = int.from_bytes(rowbinary(f"SELECT uniqCombined64(user) FROM {USERS.format(n)}"), "little")
    sketch = sketch_of(tokens[:n])
    assert abs(sketch.count() - theirs) <= theirs * 0.002
    assert abs(sketch.count() - n) <= n * 0.01
    sketch.compact()
    assert abs(sketch.count() - theirs) <= theirs * 0.002


@settings(deadline=None, max_examples=10)
@given(
    st.lists(st.tuples(st.integers(0, 2**17 - 1), st.integers(0, 2**47 - 1), st.integers(0, 47)), max_size=50)
)
def test_registers_hold_the_highest_rank_of_any_hash(parts: list[tuple[int, int, int]]) -> None:
    rare = [bucket | (rest << shift << 17) & 2**64 - 1 for bucket, rest, shift in parts]
    hashes = [*range(0, 50_000 << 17, 10 << 17), *rare]
    assert sketch_of(np.array(hashes, np.uint64)).state() == registers_by_hand(hashes)


@pytest.mark.parametrize("size", [1, 7, 100, 5_000])
def test_registers_are_counted_by_rank_however_values_come(tokens: U64, size: int) -> None:
    hashes = tokens[:20_000].copy()
    hashes[10_000:15_000] &= np.uint64(0xFFFFFFFFFFFE00FF)  # many in few buckets, and often two at a time
    whole, parts, merged = sketch_of(hashes), sketch_of(hashes[:5_000]), sketch_of(hashes[:5_000])
    for start in range(5_000, len(hashes), size):
        parts.add(hashes[start : start + size])
    merged.merge(sketch_of(hashes[5_000:]))
    assert parts.state() == merged.state() == whole.state()
    assert UniqueSketch.from_state(parts.state()).count() == parts.count() == whole.count()


@pytest.mark.parametrize("n", [2, 16, 17, 200, 4096])
def test_a_state_in_another_order_is_put_in_ours(tokens: U64, n: int) -> None:
    ours = sketch_of(tokens[:n]).state()
    arrived = ours[: -8 * n] + tokens[:n].tobytes()
    assert arrived != ours
    assert UniqueSketch.from_state(arrived).state() == ours


def test_a_zero_hash_is_a_value(rowbinary: Query) -> None:
    for n in (1, 16, 17, 4096):
        sketch = sketch_of(np.arange(n, dtype=np.uint64))
        assert sketch.count() == n
        counted = rowbinary(f"SELECT finalizeAggregation({as_state(sketch.state())})")
        assert int.from_bytes(counted, "little") == n


def test_the_state_of_an_unused_sketch_is_the_empty_one(rowbinary: Query) -> None:
    assert UniqueSketch().state() == EMPTY_STATE
    assert UniqueSketch().count() == 0
    assert rowbinary(f"SELECT uniqCombined64State(user) FROM {USERS.format(0)}") == EMPTY_STATE


@pytest.mark.parametrize("n", [3, 100, 5000])
def test_a_state_is_kept_until_a_value_is_new(tokens: U64, n: int) -> None:
    sketch = sketch_of(tokens[:n])
    state = sketch.state()
    sketch.add(tokens[:n])
    sketch.merge(sketch)
    sketch.merge(sketch_of(tokens[:2]))
    assert sketch.state() is state
    sketch.compact()
    sketch.add(tokens[: n + 100])
    assert sketch.state() == sketch_of(tokens[: n + 100]).state()


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (b"", "starts with nothing"),
        (b"\x01", "starts with 01"),
        (b"\x00\x00", "starts with 00"),
        (b"\x04" + bytes(8), "starts with 04"),
        (b"\x01\x02" + bytes(15), "2 hashes has 17 bytes, not 18"),
        (b"\x01\x01" + bytes(9), "1 hashes has 11 bytes, not 10"),
        (b"\x01\x02" + bytes(16), "only 1 of them are distinct"),
        (b"\x01\x11" + bytes(136), "kind 01 has 17 hashes, not 0 to 16"),
        (b"\x02\x10" + bytes(128), "kind 02 has 16 hashes, not 17 to 4096"),
        (b"\x02\x81\x20" + bytes(8 * 4097), "kind 02 has 4097 hashes"),
        (b"\x02\x80", "80 for its number of hashes"),
        (b"\x02\x91\x00" + bytes(136), "9100 for its number of hashes"),
        (b"\x02\xff\xff\x01", "ffff for its number of hashes"),
        (b"\x03" + bytes(98_503), "98503 bytes behind its first, not 98504"),
        (b"\x03" + bytes(98_504), "counts its registers by rank wrongly"),
        (b"\x03\x3f" + bytes(98_503), "rank 63, over 48"),
    ],
)
def test_a_malformed_state_is_refused_by_name(state: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        UniqueSketch.from_state(state)


@given(st.sets(st.integers(0, 2**64 - 1), max_size=300))
def test_what_is_stored_comes_back_as_the_same_state(hashes: set[int]) -> None:
    sketch = UniqueSketch()
    sketch.add(np.array(sorted(hashes, key=lambda one: one * 31 % 1009), np.uint64))
    assert UniqueSketch.from_state(sketch.stored()).state() == sketch.state()
