"""Stop when too much of what is read is dead letters: a wrong catalog must not dead-letter everything.

RawBatch, counted before it is decoded; Reject, judged before it is stored -> the same, or CeilingExceeded.

State: how many of the last `records` records, in whole polls, were rejected and why. It is one worker's and
begins anew with each start: nothing is judged before so many records were read, so a process that is started
again and again dead-letters up to that many each time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.events import RawBatch, Reason, Reject

REASONS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class CeilingConfig:
    ratio_max: float = 0.5
    """More rejects than this part of the records is too many; 1 never is."""
    records: int = 10_000
    """The last records that the ratio is taken over."""


class CeilingExceeded(RuntimeError):  # noqa: N818 - named for what has happened
    """Too many of the last records are rejects; the text says how many, why, and what to do."""


@dataclass(slots=True)
class _Poll:
    """The records of one poll, and why some of them were rejected."""

    topic: str
    partition: int
    first_offset: int
    records: int
    reasons: Counter[Reason] = field(default_factory=Counter)


class Ceiling:
    """Counts polls and their rejects; a reject counts in the poll it came from, however late it comes."""

    def __init__(self, config: CeilingConfig) -> None:
        self._config = config
        self._polls: deque[_Poll] = deque()
        self._records = 0
        self._rejects = 0

    def count(self, batch: RawBatch) -> RawBatch:
        """Take note of a poll before anything of it can be rejected; the oldest ones are forgotten."""
        if batch.records:
            first_offset = batch.records[0].offset()
            self._polls.append(_Poll(batch.topic, batch.partition, first_offset, len(batch.records)))
            self._records += len(batch.records)
            while self._records - self._polls[0].records >= self._config.records:
                oldest = self._polls.popleft()
                self._records -= oldest.records
                self._rejects -= oldest.reasons.total()
        return batch

    def judge(self, rejects: list[Reject]) -> Iterable[Reject]:
        """The same rejects.

        :raises CeilingExceeded: with them, too many of the last records are rejects.
        """
        for reject in rejects:
            self._note(reject)
        if self._records >= self._config.records:
            ratio = self._rejects / self._records
            if ratio > self._config.ratio_max:
                raise CeilingExceeded(self._sentence(ratio))
        return rejects

    def _note(self, reject: Reject) -> None:
        for poll in reversed(self._polls):
            if (
                poll.partition == reject.partition
                and poll.first_offset <= reject.offset
                and poll.topic == reject.topic
            ):
                poll.reasons[reject.reason] += 1
                self._rejects += 1
                return

    def _sentence(self, ratio: float) -> str:
        reasons = sum((poll.reasons for poll in self._polls), Counter[Reason]())
        shown = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(REASONS_SHOWN))
        return (
            f"{self._rejects:,} of the last {self._records:,} records ({ratio:.1%}) are dead letters"
            f" ({shown}), over METERLINE_DEAD_LETTER_RATIO_MAX = {self._config.ratio_max:g}:"
            " see `meterline dead-letters list`, repair the catalog or the producer, and start again from the"
            " last commit; or set it to 1 until the bad records are past"
        )
