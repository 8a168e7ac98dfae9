"""When each account's next moment is, soonest first. (moment, account) -> accounts whose moment has come.

State: a heap, built anew on resume. An entry that a sooner one replaced is passed over when its time comes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from operators.timeline import END_MS


class Schedule:
    """The next moment of each account, soonest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self._moments: dict[int, int] = {}

    @property
    def next_ms(self) -> int | None:
        return self._heap[0][0] if self._heap else None

    def add(self, at_ms: int | None, number: int) -> None:
        """Await an account's next moment; one that is awaited sooner stays."""
        if at_ms is not None and at_ms < self._moments.get(number, END_MS):
            self._moments[number] = at_ms
            heapq.heappush(self._heap, (at_ms, number))

    def pop(self, now_ms: int) -> Iterator[int]:
        """Accounts whose moment has come, each to be added again."""
        while self._heap and self._heap[0][0] <= now_ms:
            at_ms, number = heapq.heappop(self._heap)
            if self._moments.get(number) == at_ms:
                del self._moments[number]
                yield number
