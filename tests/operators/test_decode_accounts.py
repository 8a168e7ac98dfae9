"""Account records to the shard of their customer: the shard of the customer's usage."""

from __future__ import annotations

from typing import Any

import pytest

from operators.decode import DecodeConfig, decode_batch
from operators.decode_accounts import AccountDecoder, DecodeAccountsConfig
from operators.meter import Measure
from operators.shard import Sharder
from schemas.events import RawBatch, Reason, Reject
from schemas.records import Record
from schemas.usage import AccountSlice
from tests.builders import account_event, meter, payload, usage_event
from tests.operators.pipeline import utc
from tests.operators.records import APPEND_MS, record

SHARDS = 8


def decode(
    *records: Record, decoder: AccountDecoder | None = None
) -> tuple[dict[str, AccountSlice], list[Reject]]:
    decoder = decoder or AccountDecoder(DecodeAccountsConfig(SHARDS, event_bytes_max=2000))
    items = list(decoder.decode(RawBatch("account-events", 2, list(records), APPEND_MS, partitions=3)))
    slices = dict(item for item in items if not isinstance(item, Reject))
    return slices, [item for item in items if isinstance(item, Reject)]


def parsed(*records: Record) -> list[Any]:
    slices, rejects = decode(*records)
    assert rejects == []
    return [entry.event for piece in slices.values() for entry in piece.entries]


def test_a_customers_events_go_where_the_usage_goes_and_keep_their_order() -> None:
    customers = [f"cust_{number}" for number in range(20)]
    events = [
        account_event(external_customer_id=name, id=f"{name}-{n}") for n in range(3) for name in customers
    ]
    slices, _ = decode(*(record(payload(event), offset) for offset, event in enumerate(events)))
    usage = [
        record(payload(usage_event(external_customer_id=name, at=utc(APPEND_MS))), n)
        for n, name in enumerate(customers)
    ]
    decoded, _ = decode_batch([RawBatch("usage-events", 0, usage, APPEND_MS, 1)], DecodeConfig())
    metered, _ = Measure((meter(),)).measure(decoded)
    for key, piece in Sharder(SHARDS).split(metered):
        entries = slices[key].entries if key in slices else ()
        assert {entry.account for entry in entries} == set(piece.account.tolist())
        for name in {entry.event.external_customer_id for entry in entries}:
            ids = [entry.event.id for entry in entries if entry.event.external_customer_id == name]
            assert ids == [f"{name}-0", f"{name}-1", f"{name}-2"]


def test_all_shards_hear_of_the_progress_and_then_only_those_concerned() -> None:
    decoder = AccountDecoder(DecodeAccountsConfig(SHARDS))
    first, _ = decode(record(payload(account_event())), decoder=decoder)
    assert len(first) == SHARDS
    assert sum(len(piece.entries) for piece in first.values()) == 1
    again, _ = decode(record(payload(account_event())), decoder=decoder)
    assert len(again) == 1
    ((progress,),) = {piece.progress for piece in first.values()}
    assert (progress.source, progress.at_ms, progress.sources) == ("account-events/2", APPEND_MS, 3)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.NOT_JSON),
        (b"{", Reason.NOT_JSON),
        (b"[]", Reason.NOT_AN_OBJECT),
        (payload(account_event("teleported")), Reason.ACCOUNT_EVENT_INVALID),
        (payload(account_event(amount="-1")), Reason.ACCOUNT_EVENT_INVALID),
        (b" " * 2001, Reason.TOO_LARGE),
    ],
)
def test_a_bad_record_is_a_reject_with_its_place_and_costs_only_itself(
    value: bytes | None, reason: Reason
) -> None:
    slices, (reject,) = decode(
        record(payload(account_event())), record(value, 9), record(payload(account_event()))
    )
    assert sum(len(piece.entries) for piece in slices.values()) == 2
    assert (reject.reason, reject.topic, reject.partition, reject.offset) == (reason, "account-events", 2, 9)
    assert (reject.payload, reject.append_ms) == (value or b"", APPEND_MS)


def test_the_origin_of_an_entry_is_its_record() -> None:
    value = payload(account_event())
    slices, _ = decode(record(value, 5, [("trace", b"7")]))
    ((entry,),) = (piece.entries for piece in slices.values() if piece.entries)
    assert (entry.origin.offset, entry.origin.payload, entry.origin.headers) == (5, value, (("trace", b"7"),))


@pytest.mark.parametrize(
    ("headers", "tenant"),
    [
        ([], "default"),
        ([("tenant-id", b"a"), ("tenant-id", b"b")], "b"),
        ([("tenant-id", b"a"), ("tenant-id", b"")], "default"),
        ([("tenant-id", None)], "default"),
    ],
)
def test_the_tenant_is_the_last_header_as_it_is_for_usage(
    headers: list[tuple[str, bytes | None]], tenant: str
) -> None:
    event = {name: value for name, value in account_event().items() if name != "tenant_id"}
    assert [one.tenant_id for one in parsed(record(payload(event), headers=headers))] == [tenant]
    usage = {name: value for name, value in usage_event().items() if name not in {"tenant_id", "timestamp"}}
    decoded, _ = decode_batch(
        [RawBatch("usage-events", 0, [record(payload(usage), headers=headers)], APPEND_MS, 1)], DecodeConfig()
    )
    assert decoded.events.column("tenant_id").to_pylist() == [tenant]


def test_a_tenant_header_that_is_not_utf_8_is_refused_if_it_is_needed() -> None:
    header: list[tuple[str, bytes | None]] = [("tenant-id", b"\xfe")]
    event = account_event()
    assert [one.tenant_id for one in parsed(record(payload(event), headers=header))] == ["acme"]
    del event["tenant_id"]
    _, (reject,) = decode(record(payload(event), headers=header))
    assert reject.reason is Reason.ACCOUNT_EVENT_INVALID
    assert "tenant_id" in reject.detail
    assert reject.detail.encode()
