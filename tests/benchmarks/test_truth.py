"""The truth that benchmarks are held to, against the oracle that reads the bytes."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np

from benchmarks import truth
from benchmarks.bed import credit_event
from benchmarks.catalog import PRICES, TENANT, catalog_yaml
from benchmarks.events import PAYLOAD_BYTES, Events, Shape, draw
from tests.oracle import Expected, LogRecord, expected

SHAPE = Shape(4000, customers=40, users=60, duplicates=0.05, rate=20)
START_MS = round(datetime(2026, 11, 30, 23, 58, 30, tzinfo=UTC).timestamp() * 1000)
"""So that the log has two months and several minutes."""


def log(events: Events) -> Iterator[LogRecord]:
    for offset, payload in enumerate(events.payloads().tolist()):
        append_ms = int(events.at_ms[offset])
        yield LogRecord("usage-events", 0, offset, append_ms, None, payload)
    for number in range(SHAPE.customers):
        value = credit_event(truth.customer_name(number), START_MS)
        yield LogRecord("account-events", 0, number, START_MS, None, value)


def judged(events: Events) -> Expected:
    found = expected(log(events), catalog_yaml())
    assert not found.rejects
    assert not found.late
    return found


def test_windows_charges_and_wallets_are_the_oracles() -> None:
    events = draw(SHAPE, START_MS)
    oracle = judged(events)
    assert len(oracle.duplicates) == events.duplicate.sum() > 100

    windows = {
        (TENANT, meter, customer, datetime.fromtimestamp(start, UTC), 60): (
            cell.events,
            cell.total,
            cell.uniques,
        )
        for (meter, customer, start), cell in truth.windows(events).items()
    }
    assert windows == {key: (w.events, w.total, len(w.uniques)) for key, w in oracle.windows.items()}

    charges = {
        key: truth.charge(key[0], cell) for key, cell in truth.months(events).items() if key[0] in PRICES
    }
    by_key = {
        (key[2], key[1], int(key[3].timestamp())): charge.amount for key, charge in oracle.charges.items()
    }
    assert charges == by_key
    assert len({start for _, _, start in charges}) == 2

    left = {customer: wallet.available for (_, customer, _), wallet in oracle.wallets.items()}
    assert truth.wallets(charges, SHAPE.customers) == left
    assert sum(charges.values()) > Decimal(1)


def test_a_log_is_drawn_again_by_its_seed_and_repeats_are_copies() -> None:
    events, again = draw(SHAPE, START_MS), draw(SHAPE, START_MS)
    payloads = events.payloads()
    assert payloads.tolist() == again.payloads().tolist()
    assert {len(payload) for payload in payloads} == {PAYLOAD_BYTES}
    first = dict(zip(events.number[~events.duplicate].tolist(), payloads[~events.duplicate], strict=True))
    for row in np.flatnonzero(events.duplicate).tolist():
        assert payloads[row] == first[int(events.number[row])]


def test_windows_with_repeats_are_more_than_windows() -> None:
    events = draw(SHAPE, START_MS)
    api = [key for key in truth.windows(events) if key[0] == "api-requests"]
    once = sum(truth.windows(events)[key].events for key in api)
    twice = sum(truth.windows_with_repeats(events)[key].events for key in api)
    assert twice - once == (events.duplicate & (events.name == 0)).sum() > 0
