"""Sequences of idempotent producers in one partition.

(header of a batch) -> None: append it | its offset: it was appended before | RefusedError: a gap

State: per producer id its epoch and its last 5 batches (the most a client has in flight), rebuilt
from the log.
Limits: `PRODUCERS_MAX` producer ids a partition, the one that wrote longest ago is forgotten first; a
forgotten or unknown producer may begin at any sequence, as in Kafka.
"""

from collections import OrderedDict, deque
from typing import NamedTuple

from dataflows.embedded.kafka_batch import Header
from dataflows.embedded.kafka_wire import ErrorCode, RefusedError

PRODUCERS_MAX = 1000
BATCHES_REMEMBERED = 5


class _Batch(NamedTuple):
    base_sequence: int
    last_sequence: int
    base_offset: int


class _Producer(NamedTuple):
    epoch: int
    batches: deque[_Batch]


class Producers:
    """Who wrote what last."""

    def __init__(self) -> None:
        self._producers: OrderedDict[int, _Producer] = OrderedDict()

    def duplicate_of(self, header: Header) -> int | None:
        """The offset at which this batch stands already, or None if it may be appended.

        Raises OUT_OF_ORDER_SEQUENCE_NUMBER for a gap, INVALID_PRODUCER_EPOCH for an older epoch.
        """
        known = self._producers.get(header.producer_id)
        if header.producer_id < 0 or known is None:
            return None
        if header.producer_epoch < known.epoch:
            raise RefusedError(ErrorCode.INVALID_PRODUCER_EPOCH)
        if header.producer_epoch > known.epoch:
            expected = 0
        else:
            for batch in known.batches:
                if (batch.base_sequence, batch.last_sequence) == (header.base_sequence, header.last_sequence):
                    return batch.base_offset
            expected = known.batches[-1].last_sequence + 1 & 0x7FFFFFFF
        if header.base_sequence != expected:
            raise RefusedError(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"sequence {header.base_sequence}, expected {expected}",
            )
        return None

    def note(self, header: Header, base_offset: int) -> None:
        """Remember an appended batch."""
        if header.producer_id < 0:
            return
        known = self._producers.pop(header.producer_id, None)
        if known is None or known.epoch != header.producer_epoch:
            known = _Producer(header.producer_epoch, deque(maxlen=BATCHES_REMEMBERED))
        known.batches.append(_Batch(header.base_sequence, header.last_sequence, base_offset))
        self._producers[header.producer_id] = known
        if len(self._producers) > PRODUCERS_MAX:
            self._producers.popitem(last=False)
