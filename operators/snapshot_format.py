"""Refuse the snapshot of another version before anything else in it is read.

A snapshot is a msgpack array whose first member is its format. What stands behind is known only to versions
that know the format, so that it must not be decoded, with an error about some field, before this.
"""

from __future__ import annotations

import msgspec


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
