"""The accounts of a shard, as snapshots keep them: those that change in them, the others in a file.

the bytes of each account -> `AccountLog` -> `StoredAccountLog`, in a snapshot; and back.

An account's bytes change when it gets a usage of a kind that it had not, or an account event; other usage
goes into `operators.usage_deltas`. So most stay as they are for hours, and all of a large shard are written
to a file (`Archive`) now and then: the base. A snapshot names it, and has those that changed, or came, since.
Without an archive it has them all.

20,000 accounts of 5 usages are 7 MB, half of what their shards stored each time.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import numpy as np

from operators.archive import Archive, Part, Parts
from operators.cell_log import LAST_PART

BYTES_MIN = 1 << 17
"""Accounts of fewer bytes have no base."""

_BLOBS = msgspec.msgpack.Decoder(list[msgspec.Raw])


class StoredAccountLog(msgspec.Struct, array_like=True):
    """Accounts in a snapshot."""

    prefix: str
    numbered: int
    """How many files there have been."""
    base: Part | None
    """A msgpack array of accounts, those with the lowest numbers."""
    fresh: bytes
    """int32: the numbers of those that are not in it as they are, in their order;"""
    blobs: msgspec.Raw
    """an array of these."""


class AccountLog:
    """What snapshots know of the accounts of one shard, and the bytes of each by its number."""

    def __init__(self, archive: Archive | None = None) -> None:
        self.blobs: list[bytes] = []
        self._size = 0
        self._fresh = set[int]()
        """Accounts that are not in the base as they are."""
        self._archive = archive
        self._parts: Parts | None = None
        self._base: Part | None = None
        self._repeated = 0
        """Bytes that snapshots have had themselves since then and, with a newer base, would not have had."""

    def add(self, blob: bytes) -> None:
        """The bytes of another account."""
        self._fresh.add(len(self.blobs))
        self._size += len(blob)
        self.blobs.append(blob)

    def replace(self, number: int, blob: bytes) -> None:
        """The account has changed."""
        self._fresh.add(number)
        self._size += len(blob) - len(self.blobs[number])
        self.blobs[number] = blob

    def open(self, prefix: str, numbered: int = 0) -> None:
        """Name files from now on: their names begin with the prefix, which no other state has."""
        if self._archive is not None and self._parts is None:
            self._parts = Parts(self._archive, prefix, numbered)
            self._parts.keep([] if self._base is None else [self._base])

    def renew(self, changing: Collection[int], *, is_last: bool = False) -> None:
        """Before a snapshot: write another base if it is time, and delete what nobody needs any more.

        It is time when snapshots since the base have repeated about as much as another one would have.

        :arg changing: Accounts that will be replaced before the snapshot: no base can spare them.
        :arg is_last: The flow ends: what this snapshot has itself, all of the next process would repeat.
        """
        if self._parts is None:
            return
        repeated = sum(len(self.blobs[number]) for number in self._fresh.difference(changing))
        self._repeated += repeated
        patience = self._base.patience if self._base else 1
        is_due = self._repeated >= patience * self._size or (is_last and repeated > LAST_PART * self._size)
        if is_due and self._size >= BYTES_MIN:
            if self._base is not None:
                self._parts.leave(self._base)
            self._base, self._repeated = self._parts.put(_joined(self.blobs)), 0
            self._fresh.clear()
        self._parts.note_snapshot()

    def dump(self) -> StoredAccountLog:
        """For a snapshot. It changes no file: not every snapshot is kept."""
        prefix, numbered = ("", 0) if self._parts is None else (self._parts.prefix, self._parts.numbered)
        fresh = sorted(self._fresh)
        blobs = msgspec.Raw(_joined([self.blobs[number] for number in fresh]))
        return StoredAccountLog(prefix, numbered, self._base, np.array(fresh, np.int32).tobytes(), blobs)

    @staticmethod
    def restore(stored: StoredAccountLog, archive: Archive | None = None) -> AccountLog:
        """The accounts of a snapshot, from which the log goes on.

        :raises ValueError: if the base is lost or damaged.
        """
        log = AccountLog(archive)
        log._base = stored.base
        if stored.prefix:
            log.open(stored.prefix, stored.numbered)
        if stored.base is not None:
            if log._parts is None:
                raise ValueError(f"a state names the file {stored.base.name}, and there are no files")
            log.blobs = [bytes(blob) for blob in _BLOBS.decode(log._parts.get(stored.base))]
            log._size = sum(map(len, log.blobs))
        fresh = np.frombuffer(stored.fresh, np.int32).tolist()
        for number, blob in zip(fresh, _BLOBS.decode(stored.blobs), strict=True):
            if number < len(log.blobs):
                log.replace(number, bytes(blob))
            else:
                log.add(bytes(blob))
        return log


def _joined(blobs: list[bytes]) -> bytes:
    """A msgpack array of what is encoded already."""
    return b"\xdd" + len(blobs).to_bytes(4, "big") + b"".join(blobs)
