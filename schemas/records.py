"""Records of Kafka in columns: their bytes lie one after the other; none is an object until it is asked for.

`Record` is what Kafka stores of one event; `Records` is a sequence of such.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Protocol, overload

import numpy as np
import numpy.typing as npt
from typing_extensions import override

I64 = npt.NDArray[np.int64]
NO_VALUE = -1
"""The length of a header's value, or the end of a record's, where there is none."""
_LENGTH = struct.Struct("=i")

Headers = list[tuple[str, bytes | None]]


class Record(Protocol):
    """One Kafka record; `confluent_kafka.Message` is one."""

    def value(self) -> bytes | None: ...
    def key(self) -> bytes | None: ...
    def offset(self) -> int: ...
    def headers(self) -> Headers | None: ...
    def timestamp(self) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True)
class Records(Sequence[Record]):
    """Records of one partition, or of several polls together.

    Record i's value is `data[start[i]:value_end[i]]`; its key follows, and ends at `key_end[i]`; its headers
    follow, and end at `end[i]`: of each header the length of its name (int32), the name, the length of its
    value or `NO_VALUE`, and the value. `has_value` is false of a record without one, which is no empty one.
    `offset` and `append_ms`, Kafka's timestamp in milliseconds since 1970, are int64, as the bounds are.
    """

    data: npt.NDArray[np.uint8]
    """Read-only."""
    has_value: npt.NDArray[np.bool_]
    offset: I64
    append_ms: I64
    start: I64
    value_end: I64
    key_end: I64
    end: I64

    @override
    def __len__(self) -> int:
        return len(self.offset)

    @overload
    def __getitem__(self, row: int) -> Record: ...
    @overload
    def __getitem__(self, row: slice) -> Records: ...
    @override
    def __getitem__(self, row: int | slice) -> Record | Records:
        return self.select(row) if isinstance(row, slice) else _Record(self, range(len(self))[row])

    def select(self, rows: slice | npt.NDArray[np.bool_]) -> Records:
        """Some of the records, over the same bytes."""
        return Records(self.data, *(getattr(self, name)[rows] for name in _COLUMNS))

    @staticmethod
    def of(records: Sequence[Record]) -> Records:
        """Any records as columns."""
        if isinstance(records, Records):
            return records
        parts = [(one.value(), one.key() or b"", encoded(one.headers() or [])) for one in records]
        sizes = [len(part or b"") for parts_of_one in parts for part in parts_of_one]
        ends = np.array([0, *accumulate(sizes)], np.int64)
        return Records(
            read_only(b"".join(part or b"" for parts_of_one in parts for part in parts_of_one)),
            np.array([value is not None for value, _, _ in parts], np.bool_),
            np.array([one.offset() for one in records], np.int64),
            np.array([one.timestamp()[1] for one in records], np.int64),
            ends[:-1:3].copy(),
            ends[1::3].copy(),
            ends[2::3].copy(),
            ends[3::3].copy(),
        )

    @staticmethod
    def concat(parts: Sequence[Records]) -> Records:
        """Records of several polls, one after the other."""
        if len(parts) == 1:
            return parts[0]
        data = np.concatenate([part.data for part in parts])
        data.flags.writeable = False
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
        before = np.cumsum([0, *(len(part.data) for part in parts[:-1])])
        moved = np.repeat(before, [len(part) for part in parts])
        for bound in ("start", "value_end", "key_end", "end"):
            columns[bound] += moved
        return Records(data, **columns)


_COLUMNS = [field.name for field in fields(Records)[1:]]


@dataclass(frozen=True, slots=True)
class _Record:
    """One of `Records`."""

    records: Records
    row: int

    def value(self) -> bytes | None:
        return (
            self._bytes(self.records.start, self.records.value_end)
            if self.records.has_value[self.row]
            else None
        )

    def key(self) -> bytes:
        return self._bytes(self.records.value_end, self.records.key_end)

    def offset(self) -> int:
        return int(self.records.offset[self.row])

    def headers(self) -> Headers:
        return list(_decoded(self._bytes(self.records.key_end, self.records.end)))

    def timestamp(self) -> tuple[int, int]:
        """The kind, which is not kept, and the milliseconds."""
        return 0, int(self.records.append_ms[self.row])

    def _bytes(self, start: I64, end: I64) -> bytes:
        return self.records.data[start[self.row] : end[self.row]].tobytes()


def read_only(data: bytes) -> npt.NDArray[np.uint8]:
    """Bytes as an array: of the same type whether there are any or not, as compiled code asks."""
    array = np.frombuffer(data, np.uint8)
    array.flags.writeable = False
    return array


def encoded(headers: Headers) -> bytes:
    """Headers as they follow a key."""
    parts = []
    for name, value in headers:
        text = name.encode()
        parts += [_LENGTH.pack(len(text)), text, _LENGTH.pack(NO_VALUE if value is None else len(value))]
        parts.append(value or b"")
    return b"".join(parts)


def _decoded(data: bytes) -> Iterator[tuple[str, bytes | None]]:
    at = 0
    while at < len(data):
        name, at = _sized(data, at)
        value, at = _sized(data, at)
        # What is not UTF-8 can't be a name that we look for; a dead letter shows it.
        yield (name or b"").decode("utf-8", "backslashreplace"), value


def _sized(data: bytes, at: int) -> tuple[bytes | None, int]:
    (size,), at = _LENGTH.unpack_from(data, at), at + _LENGTH.size
    return (None, at) if size == NO_VALUE else (data[at : at + size], at + size)
