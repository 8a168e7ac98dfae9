"""Account events from Kafka to the shard of their customer. RawBatch -> (shard, AccountSlice), rejects.

The shard is that of the customer's usage: a bill has all that concerns a customer in one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import bytewax.operators as op
import pyarrow as pa
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream

from operators.examine import tenant_of_header
from operators.shard import Herald, shard_key, tenant_hash
from schemas.accounts import AccountEvent, AccountEventError, parse_account_event
from schemas.events import RawBatch, Reason, Reject
from schemas.records import Record
from schemas.usage import AccountEntry, AccountSlice


@dataclass(frozen=True, slots=True)
class DecodeAccountsConfig:
    shards: int
    event_bytes_max: int = 262_144
    default_tenant: str = "default"


Keyed: TypeAlias = tuple[str, AccountSlice]


class AccountDecoder:
    """Decodes polls of the account topic; remembers which progress the shards were told."""

    def __init__(self, config: DecodeAccountsConfig) -> None:
        self._config = config
        self._herald = Herald()

    def decode(self, batch: RawBatch) -> Iterator[Keyed | Reject]:
        """Each shard's events of a poll, in their order, and the records that are none."""
        events: list[tuple[AccountEvent, Reject]] = []
        for record in batch.records:
            try:
                origin = Reject.of(record, batch.topic, batch.partition, Reason.ACCOUNT_EVENT_IMPOSSIBLE, "")
                events.append((self._parse(record, origin), origin))
            except AccountEventError as why:
                yield Reject.of(record, batch.topic, batch.partition, why.reason, str(why))
        by_shard: dict[int, list[AccountEntry]] = {}
        for entry in _entries(events):
            by_shard.setdefault(entry.account % self._config.shards, []).append(entry)
        progress = (batch.progress,)
        told = range(self._config.shards) if self._herald.must_tell(progress) else sorted(by_shard)
        for number in told:
            yield shard_key(number), AccountSlice(tuple(by_shard.get(number, ())), progress)

    def _parse(self, record: Record, origin: Reject) -> AccountEvent:
        if len(origin.payload) > self._config.event_bytes_max:
            raise AccountEventError(Reason.TOO_LARGE, f"the payload has {len(origin.payload)} bytes")
        return parse_account_event(
            origin.payload,
            append_ms=origin.append_ms,
            # What is not UTF-8 is refused as a tenant, if the event names none itself.
            tenant_id=(tenant_of_header(record) or b"").decode("utf-8", "surrogateescape"),
            default_tenant=self._config.default_tenant,
        )


def _entries(events: list[tuple[AccountEvent, Reject]]) -> Iterator[AccountEntry]:
    tenants = pa.array([event.tenant_id for event, _ in events], pa.string()).dictionary_encode()
    customers = pa.array([event.external_customer_id for event, _ in events], pa.string())
    for hashed, (event, origin) in zip(tenant_hash(tenants, customers).tolist(), events, strict=True):
        yield AccountEntry(hashed, event, origin)


@dataclass(frozen=True)
class DecodeAccountsOut:
    """What comes of the account topic."""

    slices: KeyedStream[AccountSlice]
    """Account events by shard."""
    rejects: Stream[Reject]
    """Records that are no account event."""


@operator
def decode_accounts(step_id: str, up: Stream[RawBatch], *, config: DecodeAccountsConfig) -> DecodeAccountsOut:
    """Decode account events and key them by their customer's shard."""
    decoder = AccountDecoder(config)

    def decode(batches: list[RawBatch]) -> Iterable[Keyed | Reject]:
        for batch in batches:
            yield from decoder.decode(batch)

    decoded = op.flat_map_batch("decode", up, decode)
    return DecodeAccountsOut(
        slices=op.filter_map("slices", decoded, lambda item: None if isinstance(item, Reject) else item),
        rejects=op.filter_map("rejects", decoded, lambda item: item if isinstance(item, Reject) else None),
    )
