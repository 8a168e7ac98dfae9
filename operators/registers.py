"""HyperLogLog's registers, how many have each rank, and what they estimate.

2^17 registers, a byte each in memory; encoded as in ClickHouse's uniqCombined64 (operators/hyperloglog.py):
6 bits each, lowest bit first; u32 of_rank[49], registers by rank; u32 of_rank[0].

Ranks are counted as registers rise, and eight registers are packed at a time: a customer with many users is
priced ten times a second (15 us, counting anew 300) and is in every snapshot (180 us, one by one 800).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from schemas.usage import I64, U64, Mask

PRECISION: Final = 17
REGISTERS: Final = 1 << PRECISION
RANK_MAX: Final = 64 - PRECISION + 1
_PACKED: Final = REGISTERS * 6 // 8
FEW: Final = 32
"""Registers that are raised one by one, 0.5 us each, where any number takes 30 us."""
BYTES: Final = _PACKED + 4 * (RANK_MAX + 1) + 4

Ranks = npt.NDArray[np.uint8]
_word = np.uint64


class Registers:
    """What many values have left: of each bucket the highest rank.

    bucket = hash & (2^17 - 1), rank = trailing zeros of (hash >> 17) + 1, at most 48
    """

    __slots__ = ("_of_rank", "_ranks")

    def __init__(self, ranks: Ranks, of_rank: I64) -> None:
        self._ranks = ranks
        self._of_rank = of_rank

    @staticmethod
    def empty() -> Registers:
        of_rank = np.zeros(RANK_MAX + 1, np.int64)
        of_rank[0] = REGISTERS
        return Registers(np.zeros(REGISTERS, np.uint8), of_rank)

    @staticmethod
    def decode(data: memoryview) -> Registers:
        """What `encode` gave, unchecked."""
        return Registers(_unpacked(data), _of_rank(data))

    @staticmethod
    def check(data: memoryview) -> None:
        """Raises ValueError if the bytes are not registers, counted by rank."""
        if len(data) != BYTES:
            raise ValueError(f"has {len(data)} bytes behind its first, not {BYTES}")
        of_rank = np.bincount(_unpacked(data), minlength=RANK_MAX + 1)
        if len(of_rank) > RANK_MAX + 1:
            raise ValueError(f"has a register of rank {len(of_rank) - 1}, over {RANK_MAX}")
        # One number more than ranks: the registers of rank 0 are counted twice.
        said = np.frombuffer(data, "<u4", RANK_MAX + 2, _PACKED)
        if (said[:-1] != of_rank).any() or said[-1] != of_rank[0]:
            raise ValueError("counts its registers by rank wrongly")

    @staticmethod
    def count_of(data: memoryview) -> int:
        """As `count`, of encoded registers."""
        return _estimate(_of_rank(data))

    def encode(self) -> bytes:
        of_rank = self._of_rank.astype("<u4")
        return b"".join((_packed(self._ranks), of_rank.tobytes(), of_rank[:1].tobytes()))

    def count(self) -> int:
        """Ertl's estimate of how many values there were."""
        return _estimate(self._of_rank)

    def add(self, hashes: U64) -> bool:
        """Add values by their hashes; whether a register rose."""
        buckets = (hashes & np.uint64(REGISTERS - 1)).astype(np.intp)
        rest = hashes >> np.uint64(PRECISION)
        # The bits below the lowest 1; for 0, which has no 1, they are all 64.
        ranks = np.bitwise_count(~rest & (rest - np.uint64(1))) + np.uint8(1)
        ranks = np.minimum(ranks, np.uint8(RANK_MAX))
        higher = ranks > self._ranks[buckets]
        if not higher.any():
            return False
        self._raise(buckets[higher], ranks[higher])
        return True

    def merge(self, other: Registers) -> bool:
        """Add another's values; whether a register rose."""
        higher: Mask = other._ranks > self._ranks
        if not higher.any():
            return False
        buckets = np.flatnonzero(higher)
        self._raise(buckets, other._ranks[buckets])
        return True

    def _raise(self, buckets: npt.NDArray[np.intp], ranks: Ranks) -> None:
        """To ranks that are higher; a bucket may come twice."""
        if len(buckets) <= FEW:
            for bucket, rank in zip(buckets.tolist(), ranks.tolist(), strict=True):
                before = int(self._ranks[bucket])
                if rank > before:
                    self._ranks[bucket] = rank
                    self._of_rank[before] -= 1
                    self._of_rank[rank] += 1
            return
        order = np.argsort(buckets.astype(np.uint64) << np.uint64(8) | ranks)
        buckets, ranks = buckets[order], ranks[order]
        last = np.append(buckets[1:] != buckets[:-1], True)  # the highest of each bucket
        buckets, ranks = buckets[last], ranks[last]
        self._of_rank -= np.bincount(self._ranks[buckets], minlength=RANK_MAX + 1)
        self._of_rank += np.bincount(ranks, minlength=RANK_MAX + 1)
        self._ranks[buckets] = ranks


def _packed(ranks: Ranks) -> bytes:
    # Eight registers are a word; of it two times 6 bits become 12, 24, 48, and four times 48 three words.
    word = ranks.view("<u8")
    word = word & _word(0x003F003F003F003F) | word >> _word(2) & _word(0x0FC00FC00FC00FC0)
    word = word & _word(0x00000FFF00000FFF) | word >> _word(4) & _word(0x00FFF00000FFF000)
    word = word & _word(0x0000000000FFFFFF) | word >> _word(8) & _word(0x0000FFFFFF000000)
    quads = word.reshape(-1, 4)
    packed = np.empty((len(quads), 3), "<u8")
    packed[:, 0] = quads[:, 0] | quads[:, 1] << _word(48)
    packed[:, 1] = quads[:, 1] >> _word(16) | quads[:, 2] << _word(32)
    packed[:, 2] = quads[:, 2] >> _word(32) | quads[:, 3] << _word(16)
    return packed.tobytes()


def _unpacked(data: memoryview) -> Ranks:
    packed = np.frombuffer(data, "<u8", _PACKED // 8).reshape(-1, 3)
    quads = np.empty((len(packed), 4), "<u8")
    quads[:, 0] = packed[:, 0]
    quads[:, 1] = packed[:, 0] >> _word(48) | packed[:, 1] << _word(16)
    quads[:, 2] = packed[:, 1] >> _word(32) | packed[:, 2] << _word(32)
    quads[:, 3] = packed[:, 2] >> _word(16)
    word = quads.ravel()
    word = word & _word(0x0000000000FFFFFF) | word << _word(8) & _word(0x00FFFFFF00000000)
    word = word & _word(0x00000FFF00000FFF) | word << _word(4) & _word(0x0FFF00000FFF0000)
    word = word & _word(0x003F003F003F003F) | word << _word(2) & _word(0x3F003F003F003F00)
    return word.view(np.uint8)


def _of_rank(data: memoryview) -> I64:
    return np.frombuffer(data, "<u4", RANK_MAX + 1, _PACKED).astype(np.int64)


def _estimate(of_rank: I64) -> int:
    """Count from the number of registers of each rank: Ertl 2017, arXiv:1702.01284, algorithm 6."""
    counts = of_rank.tolist()
    z = REGISTERS * _tau(1 - counts[RANK_MAX] / REGISTERS)
    for count in reversed(counts[1:RANK_MAX]):
        z = (z + count) / 2
    z += REGISTERS * _sigma(counts[0] / REGISTERS)
    return round(REGISTERS * REGISTERS / (2 * math.log(2) * z))


def _sigma(x: float) -> float:
    """Ertl's sum for the registers that are 0."""
    if x == 1:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x *= x
        before, z = z, z + x * y
        y += y
    return z


def _tau(x: float) -> float:
    """Ertl's sum for the registers at the highest rank."""
    if x in (0, 1):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x = math.sqrt(x)
        y /= 2
        before, z = z, z - (1 - x) ** 2 * y
    return z / 3
