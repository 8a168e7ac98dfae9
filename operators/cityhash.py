"""ClickHouse's `cityHash64` of a column of strings: the token of a COUNT_UNIQUE value.

Arrow strings -> `city_hash64` -> uint64, equal to SQL `cityHash64(value)`

CityHash64 v1.0.2 (Google, 2011), the version ClickHouse has kept; later ones give other hashes. It has a
formula for each class of length, so strings are hashed class by class, all of one together, on the column's
own buffer: 50 ns a string of up to 16 bytes, 150 ns of up to 64, in batches of 10,000.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.usage import I64, U64

_K0, _K1, _K2, _K3, _MUL = (
    np.uint64(constant)
    for constant in (
        0xC3A5C85C97CB3127,
        0xB492B66FBE98F273,
        0x9AE16A3B2F90404F,
        0xC949D7C7509E6557,
        0x9DDFEA08EB382D69,
    )
)
_BLOCK: Final = 64
_OFFSETS: Final = {
    pa.string(): np.int32,
    pa.binary(): np.int32,
    pa.large_string(): np.int64,
    pa.large_binary(): np.int64,
}


def city_hash64(strings: pa.Array) -> U64:
    """Hash each value of a (large) string or binary array as ClickHouse's `cityHash64` does.

    Raises TypeError for another type, and ValueError for nulls, which have no hash.
    Past 64 bytes, all strings that go on take the next 64 together. A lone string of 1 MB takes a second:
    bound what is hashed.
    """
    if strings.type not in _OFFSETS:
        raise TypeError(f"expected strings or binaries, not {strings.type}")
    if strings.null_count:
        raise ValueError(f"{strings.null_count} of {len(strings)} values to hash are null")
    if not len(strings):
        return np.empty(0, np.uint64)
    _, offsets, data = strings.buffers()
    ends = np.frombuffer(offsets, _OFFSETS[strings.type])[strings.offset : strings.offset + len(strings) + 1]
    starts, sizes = ends[:-1].astype(np.int64), np.diff(ends).astype(np.int64)
    text = _Text(np.frombuffer(data or b"", np.uint8))
    hashes = np.full(len(strings), _K2)
    for shortest, longest, formula in _FORMULAS:
        rows = np.flatnonzero((sizes >= shortest) & (sizes <= longest))
        if len(rows):
            hashes[rows] = formula(text, starts[rows], sizes[rows])
    return hashes


class _Text:
    """Little-endian words at any byte of a buffer. A formula reads none past the end of its string."""

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        self._bytes = data
        self._words32 = np.ndarray((max(0, len(data) - 3),), "<u4", data, strides=(1,))
        self._words64 = np.ndarray((max(0, len(data) - 7),), "<u8", data, strides=(1,))

    def byte(self, at: I64) -> U64:
        return self._bytes[at].astype(np.uint64)

    def word32(self, at: I64) -> U64:
        return self._words32[at].astype(np.uint64)

    def word64(self, at: I64) -> U64:
        words: U64 = self._words64[at]
        return words


def _up_to_3(text: _Text, start: I64, size: I64) -> U64:
    y = text.byte(start) + (text.byte(start + (size >> 1)) << np.uint64(8))
    z = size.astype(np.uint64) + (text.byte(start + size - 1) << np.uint64(2))
    return _shift_mix(y * _K2 ^ z * _K3) * _K2


def _up_to_8(text: _Text, start: I64, size: I64) -> U64:
    first, last = text.word32(start), text.word32(start + size - 4)
    return _hash16(size.astype(np.uint64) + (first << np.uint64(3)), last)


def _up_to_16(text: _Text, start: I64, size: I64) -> U64:
    first, last = text.word64(start), text.word64(start + size - 8)
    n = size.astype(np.uint64)
    rotated = last + n
    return _hash16(first, rotated >> n | rotated << np.uint64(64) - n) ^ last


def _up_to_32(text: _Text, start: I64, size: I64) -> U64:
    a, b = text.word64(start) * _K1, text.word64(start + 8)
    c, d = text.word64(start + size - 8) * _K2, text.word64(start + size - 16) * _K0
    return _hash16(
        _rotate(a - b, 43) + _rotate(c, 30) + d,
        a + _rotate(b ^ _K3, 20) - c + size.astype(np.uint64),
    )


def _up_to_64(text: _Text, start: I64, size: I64) -> U64:
    end = start + size
    head = (
        text.word64(start) + (size.astype(np.uint64) + text.word64(end - 16)) * _K0,
        text.word64(start + 8),
    )
    v0, v1 = _half(*head, text.word64(start + 16), text.word64(start + 24))
    tail = (text.word64(start + 16) + text.word64(end - 32), text.word64(end - 24))
    w0, w1 = _half(*tail, text.word64(end - 16), text.word64(end - 8))
    mixed = _shift_mix((v0 + w1) * _K2 + (w0 + v1) * _K0)
    return _shift_mix(mixed * _K0 + v1) * _K2


def _half(a: U64, second: U64, third: U64, z: U64) -> tuple[U64, U64]:
    b, c = _rotate(a + z, 52), _rotate(a, 37)
    a = a + second
    c = c + _rotate(a, 7)
    a = a + third
    return a + z, b + _rotate(a, 31) + c


def _over_64(text: _Text, start: I64, size: I64) -> U64:
    end, n = start + size, size.astype(np.uint64)
    x = text.word64(start)
    y = text.word64(end - 16) ^ _K1
    z = text.word64(end - 56) ^ _K0
    v0, v1 = _weak_hash32(text, end - 64, n, y)
    w0, w1 = _weak_hash32(text, end - 32, n * _K1, np.broadcast_to(_K0, n.shape))
    z = z + _shift_mix(v1) * _K1
    state = np.stack((_rotate(z + x, 39) * _K1, _rotate(y, 33) * _K1, z, v0, v1, w0, w1))
    blocks = (size - 1) // _BLOCK
    for block in range(int(blocks.max())):
        on = np.flatnonzero(blocks > block)
        state[:, on] = _mix_block(text, start[on] + block * _BLOCK, state[:, on])
    x, y, z, v0, v1, w0, w1 = state
    return _hash16(_hash16(v0, w0) + _shift_mix(y) * _K1 + z, _hash16(v1, w1) + x)


def _mix_block(text: _Text, at: I64, state: U64) -> tuple[U64, ...]:
    x, y, z, v0, v1, w0, w1 = state
    x = _rotate(x + y + v0 + text.word64(at + 16), 37) * _K1 ^ w1
    y = _rotate(y + v1 + text.word64(at + 48), 42) * _K1 ^ v0
    z = _rotate(z ^ w0, 33)
    v0, v1 = _weak_hash32(text, at, v1 * _K1, x + w0)
    w0, w1 = _weak_hash32(text, at + 32, z + w1, y)
    return z, y, x, v0, v1, w0, w1


def _weak_hash32(text: _Text, at: I64, a: U64, b: U64) -> tuple[U64, U64]:
    z = text.word64(at + 24)
    a = a + text.word64(at)
    b = _rotate(b + a + z, 21)
    before = a
    a = a + text.word64(at + 8) + text.word64(at + 16)
    return a + z, b + _rotate(a, 44) + before


def _hash16(u: U64, v: U64) -> U64:
    a = (u ^ v) * _MUL
    a ^= a >> np.uint64(47)
    b = (v ^ a) * _MUL
    b ^= b >> np.uint64(47)
    return b * _MUL


def _shift_mix(word: U64) -> U64:
    return word ^ word >> np.uint64(47)


def _rotate(word: U64, right: int) -> U64:
    return word >> np.uint64(right) | word << np.uint64(64 - right)


_FORMULAS: Final = (
    (1, 3, _up_to_3),
    (4, 8, _up_to_8),
    (9, 16, _up_to_16),
    (17, 32, _up_to_32),
    (33, 64, _up_to_64),
    (65, np.iinfo(np.int64).max, _over_64),
)
"""By size in bytes; that of an empty string is `_K2`."""
