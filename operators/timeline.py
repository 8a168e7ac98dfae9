"""Which plan a customer is on at each moment, and the billing segments that follow from it.

A phase is a stretch of one subscription, or of none, when the catalog's default plan applies. A segment
is where a phase meets a billing period of its plan: the stretch of time over which usage is added up
and priced. All bounds are whole minutes: the stream keeps usage by the minute.

Phases are sorted by when they begin, in whatever order their events come in, and one of the future may be
known: it begins unless a later event takes the customer elsewhere in between. Of two in one minute the
one with the later timestamp holds, and the other has no segment.
A segment is priced by itself: a change of plan in mid-period splits the period's usage at its minute, and
neither tiers, free units nor flat fees are prorated.
Without a subscription the default plan's calendar periods apply.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from schemas.catalog import Catalog
from schemas.periods import period_containing
from schemas.plans import Plan
from schemas.usage import MINUTE_MS

BEGINNING_MS = -(1 << 62)
END_MS = 1 << 62


class Phase(msgspec.Struct, array_like=True, order=True, frozen=True):
    """From `from_ms` on the customer is on this plan; None: on no subscription."""

    from_ms: int
    event_ms: int
    """The event's own timestamp: of two that begin in one minute the later one holds."""
    event_id: str
    plan_id: str | None
    anchor_ms: int | None


@dataclass(frozen=True, slots=True)
class Segment:
    """`[start_ms, end_ms)` of the billing period that starts at `period_ms`, on one plan."""

    plan: Plan
    start_ms: int
    end_ms: int
    period_ms: int
    period_end_ms: int
    is_subscribed: bool
    """Not the default plan for want of a subscription."""

    @property
    def key(self) -> tuple[int, str]:
        return self.start_ms, self.plan.id


def whole_minute(at_ms: int) -> int:
    return at_ms - at_ms % MINUTE_MS


class Timeline:
    """The phases of one customer."""

    def __init__(self, catalog: Catalog, phases: list[Phase]) -> None:
        self._catalog = catalog
        self.phases = phases

    def add(self, phase: Phase) -> None:
        insort(self.phases, phase)

    def phase_at(self, at_ms: int) -> Phase | None:
        """The phase that holds at a moment; None before the first one."""
        at = self._index_at(at_ms)
        return self.phases[at] if at >= 0 else None

    def segment_at(self, at_ms: int) -> Segment | None:
        """The segment of a moment; None where there is neither a subscription nor a default plan."""
        at = self._index_at(at_ms)
        phase = self.phases[at] if at >= 0 else None
        subscribed = phase is not None and phase.plan_id is not None
        plan_id = phase.plan_id if phase is not None and subscribed else self._catalog.default_plan
        plan = self._catalog.plans_by_id.get(plan_id) if plan_id else None
        if plan is None:
            return None
        anchor_ms = phase.anchor_ms if phase is not None and subscribed else None
        anchor = None if anchor_ms is None else datetime.fromtimestamp(anchor_ms / 1000, UTC)
        period = period_containing(at_ms, plan.schedule(anchor))
        from_ms = phase.from_ms if phase is not None else BEGINNING_MS
        to_ms = self.phases[at + 1].from_ms if at + 1 < len(self.phases) else END_MS
        return Segment(
            plan,
            max(period.start_ms, from_ms),
            min(period.end_ms, to_ms),
            period.start_ms,
            period.end_ms,
            subscribed,
        )

    def standing(self, from_ms: int, until_ms: int) -> Iterator[Segment]:
        """Subscribed segments with standing charges (`Catalog.standing_charges`) that start in between."""
        for index, phase in enumerate(self.phases):
            to_ms = self.phases[index + 1].from_ms if index + 1 < len(self.phases) else END_MS
            if phase.plan_id is None or not self._catalog.standing_charges.get(phase.plan_id):
                continue
            at_ms = max(phase.from_ms, from_ms)
            while at_ms < min(to_ms, until_ms) and (segment := self.segment_at(at_ms)) is not None:
                if segment.start_ms >= from_ms:
                    yield segment
                at_ms = segment.end_ms

    def _index_at(self, at_ms: int) -> int:
        return bisect_right(self.phases, at_ms, key=lambda phase: phase.from_ms) - 1
