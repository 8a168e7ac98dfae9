"""The sums that an account keeps are those that adding everything up would give, whatever happened to it."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.account_state import AccountState, Grant, Usage
from operators.ledger import Ledger
from tests.operators.pipeline import Pipeline
from tests.operators.stories import BEGIN, CATALOG, batch, long_steps, steps, story_of

Steps = list[tuple[int, str, dict[str, Any]]]
Sums = dict[str, tuple[Decimal, Decimal, Decimal]]


def kept_sums(ledger: Ledger, now_ms: int) -> Sums:
    return {one.currency: (one.balance, one.unpaid_invoices, one.usage) for one in ledger.wallets(now_ms)}


def summed_anew(ledger: Ledger, now_ms: int) -> Sums:
    """Every usage priced again, then all added up by currency."""
    state = ledger.state
    again = Ledger(CATALOG, msgspec.structs.replace(state, usages=[*map(copied, state.usages)]))
    zero = Decimal(0)
    rows = {currency: [-overdraft, zero, zero] for currency, overdraft in state.overdrafts.items()}

    def add(currency: str, column: int, amount: Decimal) -> None:
        rows.setdefault(currency, [zero] * 3)[column] += amount

    for grant in state.grants:
        add(grant.currency, 0, grant.remaining if (grant.expires_ms or now_ms + 1) > now_ms else zero)
    for invoice in state.invoices:
        add(invoice.currency, 1, invoice.unpaid)
    places = {(i.currency, i.period_ms) for i in state.invoices if not i.is_void}
    for usage in again.usages.values():
        again.price(usage)
        covering = {(usage.currency, usage.period_ms), (usage.currency, usage.start_ms)}
        add(usage.currency, 2, zero if covering & places else usage.amount)
    return {currency: (row[0], row[1], row[2]) for currency, row in rows.items()}


def copied(usage: Usage) -> Usage:
    return msgspec.structs.replace(usage, adjustments=dict(usage.adjustments))


def ledgers_of(pipeline: Pipeline) -> list[Ledger]:
    """After what is buffered was folded."""
    found = []
    for _, _, bill in pipeline._shard.values():
        bill._bills.fold()
        shelf = bill._bills.shelf
        found += [shelf.ledger(number) for number in range(len(shelf.ledgers))]
    return found


@pytest.mark.parametrize("drawn_steps", [steps, long_steps], ids=["weeks", "years"])
@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 2**32))
def test_sums_are_kept_exactly(drawn_steps: st.SearchStrategy[Steps], data: st.DataObject, seed: int) -> None:
    story, chance = story_of(data.draw(drawn_steps)), random.Random(seed)
    pipeline = Pipeline(CATALOG, BEGIN, shards=2)
    for record in sorted(story.records, key=lambda record: record.append_ms):
        pipeline.now = max(pipeline.now, BEGIN.fromtimestamp(record.append_ms / 1000, BEGIN.tzinfo))
        for topic, poll in (("usage-events", pipeline.poll), ("account-events", pipeline.poll_accounts)):
            poll(batch([record] if record.topic == topic else [], topic, record.append_ms))
        if chance.random() < 0.2:
            pipeline.resume(pipeline.snapshot())
        if chance.random() < 0.3:
            pipeline.tick(chance.choice([0.2, 3]))
        now_ms = round(pipeline.now.timestamp() * 1000)
        for ledger in ledgers_of(pipeline):
            if chance.random() < 0.6:
                assert kept_sums(ledger, now_ms) == summed_anew(ledger, now_ms)


def test_a_credit_leaves_the_sums_the_moment_it_expires_and_is_back_when_the_clock_is_set_back() -> None:
    ledger = Ledger(CATALOG, AccountState("t", "c", grants=[Grant("g", "USD", Decimal(7), 0, 1000, 0)]))
    for now_ms, balance in [(0, 7), (999, 7), (1000, 0), (5000, 0), (999, 7)]:
        assert kept_sums(ledger, now_ms) == {"USD": (Decimal(balance), Decimal(0), Decimal(0))}
