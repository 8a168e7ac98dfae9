"""COUNT_UNIQUE of one cell as ClickHouse keeps it: exact up to 4096 values, HyperLogLog registers above.

hashes of values (`operators.cityhash.city_hash64`) -> `UniqueSketch` -> bytes for the column type
`AggregateFunction(uniqCombined64, String)`, which ClickHouse merges with its own states and with ours.

State of uniqCombined64 with its default precision 17, little endian (checked on ClickHouse 23.6 to 26.9):

    small   01, varuint n <= 16, n * u64 hash
    medium  02, varuint n <= 4096, n * u64 hash
    large   03, 2^17 registers of 6 bits, lowest bit first; u32 of_rank[49], registers by rank; u32 of_rank[0]
            bucket = hash & (2^17 - 1), rank = trailing zeros of (hash >> 17) + 1, at most 48

The same set of values gives the same bytes, however it arrived, was split or merged. ClickHouse's own bytes
- are identical for large, always;
- have the same hashes in another order for small and medium. ClickHouse keeps small as it arrived and medium
  by its hash table, where colliding hashes stand as they arrived, so one set has many states there. Ours are
  ascending: small is identical to ClickHouse's if it read the values in ascending order of hash. Medium would
  be if we emulated that table, as the tests do, at ten times the cost. ClickHouse reads any order;
- differ in one case: when 4096 values are there and one of them comes again, ClickHouse turns to registers
  and to estimating, and ours stays exact.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from operators.registers import PRECISION, Registers
from schemas.usage import I64, U64

EXACT_MAX: Final = 1 << PRECISION - 5
"""Distinct values that are counted exactly; one more, and the sketch estimates."""
EMPTY_STATE: Final = b"\x01\x00"
"""The state of no values: `uniques` of a window whose meter does not count unique values."""

_SMALL, _MEDIUM, _LARGE = 1, 2, 3
_SMALL_MAX: Final = 16


class UniqueSketch:
    """Distinct values of one cell. Idle, it is its state's bytes; they are decoded when values are added.

    Memory: idle 9 bytes a value up to 96 KiB; active about 100 bytes a value up to 400 KiB, then 128 KiB.
    """

    __slots__ = ("_hashes", "_registers", "_state")

    def __init__(self) -> None:
        self._state: bytes | None = EMPTY_STATE
        # Decoded content, in at most one of the two; `_state` is None while it lags behind that.
        self._hashes: set[int] | None = None
        self._registers: Registers | None = None

    @classmethod
    def from_state(cls, state: bytes) -> UniqueSketch:
        """Take a state of ours or of ClickHouse's, in any order. A malformed one raises ValueError."""
        sketch = cls()
        sketch._state = _canonical(state)
        return sketch

    @classmethod
    def of_own_state(cls, state: bytes) -> UniqueSketch:
        """Take what `state` gave, unchecked: checking registers takes 1 ms."""
        sketch = cls()
        sketch._state = state
        return sketch

    @classmethod
    def of_ascending(cls, hashes: U64) -> UniqueSketch:
        """The sketch of distinct hashes, in ascending order."""
        if len(hashes) <= EXACT_MAX:
            return cls.of_own_state(_head(len(hashes)) + hashes.tobytes())
        sketch = cls()
        sketch._registers, sketch._state = Registers.empty(), None
        sketch._raise_registers(hashes)
        return sketch

    def add(self, hashes: U64) -> None:
        """Count values by their `cityHash64`; those seen before change nothing."""
        for at in range(0, len(hashes), EXACT_MAX):
            if self._is_large():
                self._raise_registers(hashes[at:])
                return
            self._add_exactly(hashes[at : at + EXACT_MAX].tolist())

    def merge(self, other: UniqueSketch) -> None:
        """Add all values of another sketch, which stays as it is."""
        if other._is_large():
            self._become_large()
            registers = self._registers = self._decoded_registers()
            if registers.merge(other._decoded_registers()):
                self._state = None
        elif self._is_large():
            self._raise_registers(np.fromiter(other._decoded_hashes(), np.uint64))
        else:
            self._add_exactly(other._decoded_hashes())

    def hashes(self) -> U64 | None:
        """The hashes of its values, in no order; None if it estimates them."""
        if self._is_large():
            return None
        known = self._decoded_hashes()
        return np.fromiter(known, np.uint64, len(known))

    def state(self) -> bytes:
        """Encode for ClickHouse; the same values give the same bytes. Kept until a value is new."""
        if self._state is None:
            if self._registers is not None:
                self._state = bytes([_LARGE]) + self._registers.encode()
            else:
                self._state = _encode_hashes(self._decoded_hashes())
        return self._state

    def stored(self) -> bytes:
        """A state for a snapshot of ours, for `from_state`; hashes are in no order: sorting them took two
        thirds of the time that encoding an account takes."""
        if self._state is None and self._hashes is not None:
            n = len(self._hashes)
            return _head(n) + np.fromiter(self._hashes, "<u8", n).tobytes()
        return self.state()

    def compact(self) -> None:
        """Drop what was decoded and keep the state's bytes, until values are added again."""
        self._state = self.state()
        self._hashes = self._registers = None

    def count(self) -> int:
        """Distinct values: exact up to 4096, above that Ertl's estimate from the registers.

        ClickHouse corrects its estimate by a table of measured biases instead: the two differ by up to 0.16 %
        of the count (most near 150,000), and either is off from the truth by 0.2 to 0.35 % (rms).
        """
        if self._state is not None:
            if self._state[0] == _LARGE:
                return Registers.count_of(memoryview(self._state)[1:])
            return _length(self._state)[0]
        if self._registers is not None:
            return self._registers.count()
        return len(self._decoded_hashes())

    def _is_large(self) -> bool:
        if self._hashes is None and self._registers is None:
            return self.state()[0] == _LARGE
        return self._registers is not None

    def _decoded_hashes(self) -> set[int]:
        if self._hashes is not None:
            return self._hashes
        n, start = _length(self.state())
        return set(struct.unpack_from(f"<{n}Q", self.state(), start))

    def _decoded_registers(self) -> Registers:
        if self._registers is not None:
            return self._registers
        return Registers.decode(memoryview(self.state())[1:])

    def _become_large(self) -> None:
        if self._is_large():
            return
        hashes = np.fromiter(self._decoded_hashes(), np.uint64)
        self._hashes, self._registers, self._state = None, Registers.empty(), None
        self._raise_registers(hashes)

    def _add_exactly(self, hashes: Iterable[int]) -> None:
        known = self._hashes = self._decoded_hashes()
        before = len(known)
        known.update(hashes)
        if len(known) != before:
            self._state = None
            if len(known) > EXACT_MAX:
                self._become_large()

    def _raise_registers(self, hashes: U64) -> None:
        registers = self._registers = self._decoded_registers()
        if registers.add(hashes):
            self._state = None


def heads(counts: I64) -> tuple[npt.NDArray[np.uint8], I64]:
    """As `_head`, of many states: (bytes, how many of the three)."""
    is_long = counts >= 0x80  # the varuint takes two bytes
    head = np.zeros((len(counts), 3), np.uint8)
    head[:, 0] = np.where(counts <= _SMALL_MAX, _SMALL, _MEDIUM)
    head[:, 1] = counts & 0x7F | is_long << 7
    head[:, 2] = counts >> 7
    return head, 2 + is_long


def _head(n: int) -> bytes:
    """What stands before n hashes."""
    if n < 0x80:
        return bytes((_SMALL if n <= _SMALL_MAX else _MEDIUM, n))
    return bytes((_MEDIUM, n & 0x7F | 0x80, n >> 7))


def _encode_hashes(hashes: set[int]) -> bytes:
    n = len(hashes)
    if n <= _SMALL_MAX:  # a fifth of the time that numpy takes
        return struct.pack(f"<BB{n}Q", _SMALL, n, *sorted(hashes))
    return _head(n) + np.sort(np.fromiter(hashes, "<u8", n)).tobytes()


def _length(state: bytes) -> tuple[int, int]:
    """(number of hashes, where they start) of a small or medium state."""
    if state[1] < 0x80:
        return state[1], 2
    return state[1] & 0x7F | state[2] << 7, 3


def _canonical(state: bytes) -> bytes:
    """Check a state, and put its hashes in order. Raises ValueError."""
    if len(state) < 2 or state[0] not in (_SMALL, _MEDIUM, _LARGE):
        raise ValueError(f"uniqCombined64 state starts with {state[:1].hex() or 'nothing'}, not 01, 02 or 03")
    if state[0] == _LARGE:
        try:
            Registers.check(memoryview(state)[1:])
        except ValueError as error:
            raise ValueError(f"uniqCombined64 state of registers {error}") from None
        return state
    if state[1] >= 0x80 and (len(state) < 3 or not 0 < state[2] < 0x80):
        raise ValueError(f"uniqCombined64 state has {state[1:3].hex()} for its number of hashes")
    n, start = _length(state)
    fewest, most = (0, _SMALL_MAX) if state[0] == _SMALL else (_SMALL_MAX + 1, EXACT_MAX)
    if not fewest <= n <= most:
        raise ValueError(f"uniqCombined64 state of kind {state[0]:02} has {n} hashes, not {fewest} to {most}")
    if len(state) != start + 8 * n:
        raise ValueError(f"uniqCombined64 state of {n} hashes has {len(state)} bytes, not {start + 8 * n}")
    hashes = np.frombuffer(state, "<u8", n, start)
    if (hashes[1:] > hashes[:-1]).all():
        return state
    distinct = np.unique(hashes)
    if len(distinct) != n:
        raise ValueError(
            f"uniqCombined64 state says {n} hashes, but only {len(distinct)} of them are distinct"
        )
    return state[:start] + distinct.tobytes()
