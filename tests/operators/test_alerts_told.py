"""Alerts through crashes: a replay flushes at other moments, and may miss a dip that was judged before."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from operators.bill_state import Shelf
from operators.bills import BillConfig, Bills
from schemas.wallets import WalletAlert
from tests.builders import NOON, account_event, catalog
from tests.operators.batches import NOON_MS, account_slice_of

CONFIG = BillConfig(catalog())
MOVES = ("event", "event", "flush", "flush", "snapshot", "commit", "crash")


class Shard:
    """One shard's bills over a log of account events, and who was told what."""

    def __init__(self, chance: random.Random) -> None:
        self.bills = Bills(CONFIG, Shelf(CONFIG.catalog))
        self.told: dict[str, str] = {}
        """Direction by id: readers know what they were told."""
        self._log = [account_event("thresholds_set"), account_event(amount="20")]
        self._read = 0
        self._chance = chance
        self.read(2)
        self.bills.wallets(NOON_MS)
        self._stored = self._committed = (2, self.bills.dump())

    def move(self, name: str) -> None:
        if name == "flush":
            self.bills.wallets(NOON_MS)
            self._tell(self.bills.alerts())
        elif name == "snapshot" and self._stored is self._committed:
            self._stored = (self._read, self.bills.dump())
        elif name == "commit":
            self._committed = self._stored
        elif name == "crash":
            self._stored = self._committed
            self._read = self._committed[0]
            self.bills = Bills(CONFIG, Shelf.restore(self._committed[1], CONFIG.catalog))
        elif name == "event" and self._stored is self._committed:  # sources wait for it
            # Each crosses the threshold of 10 USD.
            name = "debit" if len(self._log) % 2 == 0 else "credit_granted"
            self._log.append(account_event(name, amount="15"))
            self.read(self._chance.randint(1, 3))

    def read(self, most: int) -> None:
        for event in self._log[self._read : self._read + most]:
            list(self.bills.take_accounts(account_slice_of(NOON, event)))
            self._read += 1

    def end(self) -> None:
        self.read(len(self._log))
        self.bills.wallets(NOON_MS)
        self._tell(self.bills.alerts(is_last=True))

    def _tell(self, alerts: list[WalletAlert]) -> None:
        for alert in alerts:
            self.told.setdefault(alert.id, alert.direction)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(MOVES), max_size=40), st.integers(0, 2**32))
def test_what_is_told_is_never_forgotten(moves: list[str], seed: int) -> None:
    shard = Shard(random.Random(seed))
    for name in moves:
        shard.move(name)
    shard.end()
    told = list(shard.told.values())
    assert all(before != after for before, after in pairwise(told)), shard.told
    crossings = [c for ledger in shard.bills.shelf.ledgers for c in ledger.state.crossings.values()]
    assert len(told) == sum(crossing.number for crossing in crossings)
    assert (told[-1:] == ["down"]) == any(crossing.is_low for crossing in crossings)
