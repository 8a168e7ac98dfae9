"""What all snapshots have in common: their format comes first, and their columns are narrow.

A snapshot is a msgpack array whose first member is its format. What stands behind is known only to versions
that know the format, so that it must not be decoded, with an error about some field, before this.

Every byte of state is written at every epoch's end, at 6 ms a MB or more, while sources stand still.
"""

from __future__ import annotations

import msgspec
import numpy as np

from schemas.usage import I64, U16, U32


class _Format(msgspec.Struct, array_like=True):
    format: int


_FORMAT = msgspec.msgpack.Decoder(_Format)


def check_format(snapshot: bytes, state: str, readable: int) -> None:
    """Raise ValueError, with what to do, if `snapshot` is not of the format that this version reads.

    :arg state: Whose snapshot it is, for the message.
    """
    found = _FORMAT.decode(snapshot).format
    if found != readable:
        raise ValueError(
            f"the {state} state in the recovery store has format {found}, this version reads {readable}: "
            "go on with the version that wrote it"
        )


class StoredIntegers(msgspec.Struct, array_like=True):
    """A column of integers in a snapshot: each is `base` and one of `data`."""

    base: int
    type: str
    """numpy's, of the narrowest integers that hold them."""
    data: memoryview

    @staticmethod
    def of(column: I64 | U32 | U16) -> StoredIntegers:
        column = column.astype(np.int64, copy=False)
        base, top = (int(column.min()), int(column.max())) if len(column) else (0, 0)
        kind = np.min_scalar_type(top - base).newbyteorder("<")
        return StoredIntegers(base, kind.str, (column - base).astype(kind).data)

    def read(self) -> I64:
        """The column, copied."""
        return np.frombuffer(self.data, self.type).astype(np.int64) + self.base
