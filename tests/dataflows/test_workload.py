"""The workload against the oracle: they share no code and must agree to the last digit."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

import pytest

from dataflows.truth import Money, Truth, Usage
from dataflows.workload import FORMS, LATE_MIN_S, Kind, Produced, Workload, workload_catalog
from schemas.accounts import parse_account_event
from schemas.catalog import load_catalog
from schemas.events import Reason
from tests.oracle import Expected, LogRecord, Rules, expected

START = datetime(2026, 11, 2, 9, tzinfo=UTC)
"""Late events of up to two days before fall into October: two billing periods."""
EVENTS = 12_000
RATE = 10  # a second: 20 minutes of events, so that customers have several windows of a meter
OVERSIZE_BYTES = 2000


def workload(seed: int = 7, **options: Any) -> Workload:
    return Workload(seed, start=START, customers=50, rate=RATE, oversize_bytes=OVERSIZE_BYTES, **options)


def log_of(events: Iterable[Produced], topic: str, append_ms: int | None = None) -> list[LogRecord]:
    """As a broker with four partitions would keep them, stored a minute later, or at `append_ms`."""
    ends: Counter[int] = Counter()
    records = []
    for number, event in enumerate(events):
        partition = zlib.crc32(event.key) % 4
        at_ms = (
            round(START.timestamp() * 1000) + number * 1000 // RATE + 60_000
            if append_ms is None
            else append_ms
        )
        records.append(
            LogRecord(topic, partition, ends[partition], at_ms, event.key, event.value, event.headers)
        )
        ends[partition] += 1
    return records


@pytest.fixture(scope="module")
def events() -> list[Produced]:
    return list(workload().events(EVENTS))


@pytest.fixture(scope="module")
def truth(events: list[Produced]) -> Truth:
    truth = Truth()
    for event in events:
        truth.add(event)
    for event in workload().account_events():
        truth.add_account(event)
    return truth


@pytest.fixture(scope="module")
def judged(events: list[Produced]) -> Expected:
    records = log_of(events, "usage-events") + log_of(workload().account_events(), "account-events")
    return expected(records, workload_catalog(), Rules(event_bytes_max=OVERSIZE_BYTES))


def test_each_event_becomes_what_the_generator_says(events: list[Produced], judged: Expected) -> None:
    late = {position for position, _ in judged.late}
    for record, event in zip(log_of(events, "usage-events"), events, strict=True):
        position = record.position
        assert judged.rejects.get(position) == event.reason
        assert (position in judged.duplicates) == (event.kind is Kind.DUPLICATE)
        assert (position in judged.events) == (event.kind in {Kind.GOOD, Kind.LATE})
        assert (position in late) == (event.kind is Kind.LATE and bool(event.readings))
        if position in judged.events:
            read = judged.events[position]
            assert (read.tenant_id, read.external_customer_id) == (event.tenant_id, event.customer)
            assert read.timestamp == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=event.at_ms)


def test_no_event_becomes_late_by_an_hour_s_delay() -> None:
    events = list(workload(seed=3, late=0.0).events(5000))
    append_ms = round((START + timedelta(hours=1)).timestamp() * 1000)
    records = log_of(events, "usage-events", append_ms=append_ms)
    judged = expected(records, workload_catalog(), Rules(event_bytes_max=OVERSIZE_BYTES))
    assert not judged.late
    assert len(judged.events) == sum(event.kind is Kind.GOOD for event in events)


def test_the_truth_s_usage_is_the_oracle_s_windows_merged(truth: Truth, judged: Expected) -> None:
    merged: dict[tuple[str, str, str], Usage] = defaultdict(Usage)
    for (tenant, meter, customer, _, _), window in judged.windows.items():
        usage = merged[tenant, meter, customer]
        usage.events += window.events
        usage.total += window.total
        usage.uniques |= window.uniques
    assert truth.usage == merged
    assert len(judged.windows) > 4 * len(merged) > 2000, "the case is not trivial"
    assert truth.late_readings == len(judged.late) > 0


def test_the_truth_s_bills_and_wallets_are_the_oracle_s(truth: Truth, judged: Expected) -> None:
    quantities = {
        (tenant, customer, meter, period): usage.quantity(meter)
        for (tenant, customer, meter, period), usage in truth.bills.items()
        if meter != "api-latency"  # which no plan charges for
    }
    assert quantities == {key[:4]: charge.quantity for key, charge in judged.charges.items()}
    assert {period.month for _, _, _, period in quantities} == {10, 11}
    wallets = {
        (tenant, customer): Money(wallet.balance, wallet.unpaid_invoices, wallet.usage)
        for (tenant, customer, _), wallet in judged.wallets.items()
    }
    assert truth.wallets() == wallets
    assert {currency for _, _, currency in judged.wallets} == {"USD"}
    assert any(wallet.unpaid_invoices for wallet in wallets.values())


def test_every_reason_that_a_producer_can_cause_takes_its_turn(truth: Truth) -> None:
    ours = {Reason.ACCOUNT_EVENT_INVALID, Reason.ACCOUNT_EVENT_IMPOSSIBLE, Reason.STORE_REJECTED}
    assert set(truth.reasons) == set(Reason) - ours
    without_oversize = {event.reason for event in Workload(start=START).events(EVENTS)}
    assert without_oversize == set(truth.reasons) - {Reason.TOO_LARGE} | {None}


def test_the_same_seed_gives_the_same_bytes_and_more_events_only_add(events: list[Produced]) -> None:
    assert list(workload().events(EVENTS)) == events
    assert list(workload().events(100)) == events[:100]
    assert list(islice(workload().events(), 5000)) == events[:5000]
    assert [e.value for e in workload(seed=8).events(100)] != [e.value for e in events[:100]]


def test_the_stream_is_skewed_and_mixed_as_it_says(events: list[Produced]) -> None:
    kinds = Counter(event.kind for event in events)
    assert 0.005 < kinds[Kind.DUPLICATE] / EVENTS < 0.02
    assert 0.002 < kinds[Kind.BAD] / EVENTS < 0.01
    assert 0.002 < kinds[Kind.LATE] / EVENTS < 0.01
    customers = Counter(event.customer for event in events)
    assert customers["cust_000000"] > 5 * customers["cust_000010"] > 0
    assert len({(event.tenant_id, event.customer) for event in events}) > 140
    sizes = [len(event.value) for event in events if event.kind is Kind.GOOD]
    assert 240 < sum(sizes) / len(sizes) < 300
    cloud = sum(b'"specversion"' in event.value for event in events)
    header = sum(bool(event.headers) for event in events)
    assert EVENTS / FORMS / 2 < cloud < EVENTS / FORMS * 2
    assert EVENTS / FORMS / 2 < header < EVENTS / FORMS * 2


def test_a_duplicate_is_an_earlier_event_to_the_last_byte(events: list[Produced]) -> None:
    seen: dict[tuple[bytes, bytes], int] = {}
    for number, event in enumerate(events):
        if event.kind is Kind.DUPLICATE:
            assert number - seen[event.key, event.value] <= 1100, "within the horizon of dedupe"
        else:
            seen[event.key, event.value] = number


def test_the_catalog_is_valid_and_late_events_are_late_for_all_of_it() -> None:
    catalog = load_catalog(workload_catalog())
    assert Counter(meter.aggregation.type.value for meter in catalog.meters) == {
        "COUNT": 1,
        "SUM": 2,
        "AVG": 1,
        "COUNT_UNIQUE": 1,
    }
    assert {meter.window for meter in catalog.meters} == {"1m", "15m", "1h"}
    assert catalog.default_plan == catalog.plans[0].id
    assert max(meter.window_s + meter.allowed_lateness_s for meter in catalog.meters) < LATE_MIN_S


def test_every_customer_starts_with_a_credit(truth: Truth) -> None:
    wallets = truth.wallets()
    assert len(wallets) == 3 * 50
    assert all(wallet.balance >= Decimal(44) for wallet in wallets.values())


def test_account_events_are_such_as_the_schema_reads_and_none_comes_twice() -> None:
    read = [parse_account_event(event.value, append_ms=0) for event in workload().account_events()]
    assert {event.type for event in read} == {"credit_granted", "debit", "invoice_issued", "invoice_paid"}
    assert len({(event.tenant_id, event.id) for event in read}) == len(read)
    invoiced = {event.period_start for event in read if event.type == "invoice_issued"}
    assert invoiced == {datetime(2026, 9, 1, tzinfo=UTC)}, "of a month without usage of this workload"


def test_more_tenants_than_there_are_names_for_is_refused() -> None:
    with pytest.raises(ValueError, match="tenants is 9, not from 1 to 8"):
        Workload(start=START, tenants=9)
