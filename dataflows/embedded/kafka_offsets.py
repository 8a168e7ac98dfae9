"""The offsets that groups committed.

(group, topic, partition) -> offset, metadata

State: `offsets.jsonl`, one line a commit request, written before it is acknowledged; the last line of a
partition holds. A torn last line is cut off on opening; a file of mostly overwritten lines is rewritten
with the live ones.
Limits: metadata up to `METADATA_BYTES_MAX`, `OFFSETS_MAX` partitions over all groups.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dataflows.embedded.kafka_log import write_atomically
from dataflows.embedded.kafka_wire import ErrorCode, RefusedError

METADATA_BYTES_MAX = 4096
OFFSETS_MAX = 100_000
_LINES_PER_OFFSET = 10
_REWRITE_LINES_MIN = 10_000


class Commit(NamedTuple):
    """One partition of a commit."""

    topic: str
    partition: int
    offset: int
    metadata: str


class Offsets:
    """Commits in a file and in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._groups: dict[str, dict[tuple[str, int], Commit]] = {}
        self._lines = 0
        self._file = -1

    def open(self) -> None:
        if self._path.exists():
            for line in self._path.read_bytes().splitlines():
                try:
                    group, commits = json.loads(line)
                except ValueError:
                    break
                self._apply(group, [Commit(*commit) for commit in commits])
        self._rewrite()

    def check(self, group: str, commit: Commit) -> None:
        """Raises RefusedError for a commit over a limit."""
        if len(commit.metadata.encode()) > METADATA_BYTES_MAX:
            raise RefusedError(ErrorCode.OFFSET_METADATA_TOO_LARGE)
        known = (commit.topic, commit.partition) in self._groups.get(group, {})
        if not known and sum(map(len, self._groups.values())) >= OFFSETS_MAX:
            raise RefusedError(
                ErrorCode.UNKNOWN_SERVER_ERROR, f"{OFFSETS_MAX} partitions have committed offsets"
            )

    def commit(self, group: str, commits: list[Commit]) -> None:
        """Durable when it returns. A negative offset forgets the partition's."""
        if not commits:
            return
        line = json.dumps([group, commits]).encode() + b"\n"
        size_bytes = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise RefusedError(ErrorCode.KAFKA_STORAGE_ERROR, str(error)) from error
        if written < len(line):  # the disk is full: a torn line must not be followed by another
            os.ftruncate(self._file, size_bytes)
            raise RefusedError(ErrorCode.KAFKA_STORAGE_ERROR, f"short write to {self._path}")
        self._apply(group, commits)
        self._lines += 1
        live = sum(map(len, self._groups.values()))
        if self._lines > max(_REWRITE_LINES_MIN, _LINES_PER_OFFSET * live):
            self._rewrite()

    def committed(self, group: str, topic: str, partition: int) -> Commit | None:
        return self._groups.get(group, {}).get((topic, partition))

    def of_group(self, group: str) -> dict[str, list[int]]:
        """The partitions with an offset, by topic."""
        topics: dict[str, list[int]] = {}
        for topic, partition in self._groups.get(group, {}):
            topics.setdefault(topic, []).append(partition)
        return topics

    def groups(self) -> list[str]:
        return sorted(self._groups)

    def forget_group(self, group: str) -> None:
        """Raises GROUP_ID_NOT_FOUND."""
        if group not in self._groups:
            raise RefusedError(ErrorCode.GROUP_ID_NOT_FOUND)
        self.commit(group, _forgotten(self._groups[group]))

    def forget_topic(self, topic: str) -> None:
        """A topic made anew under this name begins without offsets."""
        for group, commits in list(self._groups.items()):
            self.commit(group, _forgotten(key for key in commits if key[0] == topic))

    def close(self) -> None:
        os.close(self._file)

    def _apply(self, group: str, commits: list[Commit]) -> None:
        partitions = self._groups.setdefault(group, {})
        for commit in commits:
            if commit.offset < 0:
                partitions.pop((commit.topic, commit.partition), None)
            else:
                partitions[commit.topic, commit.partition] = commit
        if not partitions:
            del self._groups[group]

    def _rewrite(self) -> None:
        lines = [
            json.dumps([group, list(commits.values())]) + "\n" for group, commits in self._groups.items()
        ]
        write_atomically(self._path, "".join(lines))
        self._lines = len(lines)
        if self._file >= 0:
            os.close(self._file)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)


def _forgotten(keys: Iterable[tuple[str, int]]) -> list[Commit]:
    return [Commit(topic, partition, -1, "") for topic, partition in keys]
