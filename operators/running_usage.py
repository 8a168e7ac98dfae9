"""Usage of the segments that accounts are in now, in columns: added to, priced and sent without ledgers.

Nearly all usage is of a segment that is running. Rows (operators/usage_table.py) have it, from an account's
first usage (`add`) until anything else happens to the account (`give_back`): an account event, usage of
another segment. In between the ledger has what it had before, and the rows are ahead of it; `copy_back`
brings its numbers up to date for a snapshot. So what is kept, and what all of this means, is in
operators/ledger.py: nothing of it is here.

An account stays with its ledger that has wallets in two currencies or, in its running segment, a meter that
never resets, an invoice, an adjustment, or a price that is not of lines (operators/price_table.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from msgspec import structs

from operators.account_state import ZERO, Usage
from operators.balances import Wallet
from operators.ledger import Ledger
from operators.running_account import (
    USED_MAX,
    begin,
    can_begin,
    minor_units,
    release,
    take_back,
    usages_of,
)
from operators.running_charges import RunningCharges
from operators.timeline import Segment
from operators.usage_rows import UsageRows
from operators.usage_table import Table, UsageTable, grown
from schemas.catalog import Catalog
from schemas.money import EXACT, MINOR_UNITS, exact_subtract, exact_sum
from schemas.usage import I64, MINUTE_MS, U64, Mask
from schemas.wallets import WalletRow

ELSEWHERE = -2
"""Where usage stands that is to be added to its ledger."""

_SPAN = np.dtype([(name, np.int64) for name in ("first", "end", "from_ms", "until_ms", "used", "moves")])
"""An account: the minutes of its segment, when its wallet holds, the wallet's usage in minor units, and
`AccountState.moves`. All 0 of one that is not here."""


@dataclass(slots=True)
class _Account:
    ledger: Ledger
    segment: Segment
    rows: list[int]
    balance: Decimal = ZERO
    unpaid_invoices: Decimal = ZERO
    available: Decimal = ZERO
    """Of the wallet when it was made, without any usage."""


class Added(NamedTuple):
    """What became of usage that was to be added."""

    place: I64
    """Where the usage that each row was added to stands in its account, or `ELSEWHERE`."""
    begun: list[tuple[int, Usage]]
    """Usages that are new, with their accounts."""
    changed: list[int]
    """Accounts that changed in other ways."""


class RunningUsage:
    """The running usage of the accounts of one shard."""

    def __init__(self, catalog: Catalog, ledgers: list[Ledger]) -> None:
        """`ledgers`: by account number; more may come."""
        self._meter_ids = [meter.id for meter in catalog.meters]
        self._table = UsageTable(catalog)
        self.prices = self._table.prices
        self._ledgers = ledgers
        self._accounts: dict[int, _Account] = {}
        self._spans: Table = np.zeros(0, _SPAN)
        """By account number."""
        self._unfit: dict[int, tuple[int, str]] = {}
        """Accounts that can't run in the segment with this key."""

    def __contains__(self, number: int) -> bool:
        return number in self._accounts

    # -- from ledgers and back

    def _start(self, numbers: Sequence[int], minutes: Sequence[int]) -> list[int]:
        """Go on with the usage of accounts in the segments of these minutes, where that can be; the accounts
        in which standing charges began."""
        found: list[tuple[int, Segment, list[Usage]]] = []
        changed = []
        for number, minute in zip(numbers, minutes, strict=True):
            ledger = self._ledgers[number]
            segment = ledger.segment_at(minute * MINUTE_MS)
            if ledger.has_changed:
                changed.append(number)
            if segment is None or self._unfit.get(number) == segment.key:
                continue
            usages = usages_of(ledger, segment)
            if usages is None:
                self._unfit[number] = segment.key
            elif usages or not ledger.catalog.standing_charges[segment.plan.id]:
                found.append((number, segment, usages))
        rows = self._table.put([(number, usage) for number, _, usages in found for usage in usages])
        priced = self._table.priced(rows, self._table.quantities(rows))
        self._table.rows["minor"][rows] = priced.minor
        first = 0
        for number, segment, usages in found:
            last = first + len(usages)
            ledger = self._ledgers[number]
            release(ledger, usages)
            self._accounts[number] = _Account(ledger, segment, rows[first:last].tolist())
            minutes_ = segment.start_ms // MINUTE_MS, segment.end_ms // MINUTE_MS
            self._spans[number] = (*minutes_, 0, 0, 0, ledger.state.moves)
            first = last
        self._dismiss(rows[~priced.is_exact])
        return changed

    def reconsider(self, number: int) -> None:
        """Something happened to an account that may let it run."""
        self._unfit.pop(number, None)

    def _dismiss(self, rows: I64) -> None:
        """Give back the accounts of these rows, for as long as they are in this segment."""
        numbers = sorted(set(self._table.rows["account"][rows].tolist()))
        self._unfit.update((number, self._accounts[number].segment.key) for number in numbers)
        self.give_back(numbers)

    def copy_back(self, numbers: Iterable[int]) -> None:
        """Bring the usages of accounts up to date in their ledgers, which are not to go on with them."""
        rows = [row for number in numbers if number in self for row in self._accounts[number].rows]
        self._table.copy_back(np.array(rows, np.int64))

    def give_back(self, numbers: Iterable[int]) -> None:
        """Let accounts' ledgers go on with their usage."""
        here = [number for number in dict.fromkeys(numbers) if number in self]
        if not here:
            return
        self.copy_back(here)
        accounts = [self._accounts.pop(number) for number in here]
        self._table.drop([row for account in accounts for row in account.rows])
        self._spans[here] = np.zeros((), _SPAN)
        for account in accounts:
            for row in account.rows:
                take_back(account.ledger, self._table.usages[row])

    # -- usage

    def add(self, rows: UsageRows, tokens: U64, settled: int) -> Added:
        """Add usage, a row for each account and meter.

        :arg settled: Minutes before this one are in their segment for good.
        """
        self._spans = grown(self._spans, len(self._ledgers))
        is_whole = (rows.first < settled) == (rows.last < settled)
        new = np.flatnonzero(is_whole & (self._spans["end"][rows.account] == 0))
        numbers, first = np.unique(rows.account[new], return_index=True)
        changed = self._start(numbers.tolist(), rows.first[new[first]].tolist()) if len(numbers) else []
        at = np.flatnonzero(is_whole & self._is_in(rows))
        row = self._table.find(rows.account[at], rows.meter[at])
        begun = self._begin(row, rows.account[at], rows.meter[at])
        at, row = at[row >= 0], row[row >= 0]
        self._table.add(row, rows.at(at), tokens, settled)
        place = np.full(len(rows.account), ELSEWHERE, np.int64)
        place[at] = self._table.rows["place"][row]
        return Added(place, begun, changed)

    def _is_in(self, rows: UsageRows) -> Mask:
        """Which rows are within the segment that their account is in."""
        span = self._spans[rows.account]
        is_in: Mask = (rows.first >= span["first"]) & (rows.last < span["end"])
        return is_in

    def _begin(self, row: I64, account: I64, meter: I64) -> list[tuple[int, Usage]]:
        """Begin usages where there are none of a meter, and they may begin here.

        :arg row: Of each usage, or -1; those that are begun are put into it.
        """
        new = np.flatnonzero(row < 0)
        begun: list[tuple[int, Usage]] = []
        indexes = []
        for index, number, place in zip(*(c.tolist() for c in (new, account[new], meter[new])), strict=True):
            one, meter_id = self._accounts[number], self._meter_ids[place]
            if can_begin(one.ledger, one.segment, meter_id):
                begun.append((number, begin(one.ledger, one.segment, meter_id)))
                indexes.append(index)
        rows = self._table.put(begun)
        self._table.rows["minor"][rows] = 0  # it was nothing before
        row[indexes] = rows
        for added, (number, _) in zip(rows.tolist(), begun, strict=True):
            self._accounts[number].rows.append(added)
        return begun

    # -- out

    def price(self) -> None:
        """Price what changed; accounts with an amount that no column holds are given back."""
        table = self._table
        rows = table.take_stale()
        priced = table.priced(rows, table.quantities(rows))
        np.add.at(self._spans["used"], table.rows["account"][rows], priced.minor - table.rows["minor"][rows])
        table.rows["minor"][rows] = priced.minor
        self._dismiss(rows[~priced.is_exact])

    def wallets(self, numbers: Sequence[int], now_ms: int, generation: int) -> list[WalletRow | None]:
        """The wallets of accounts, after `price`; None of those that are not here.

        :arg generation: What all versions begin with.
        """
        self._spans = grown(self._spans, len(self._ledgers))
        at = np.array(numbers, np.int64)
        span = self._spans[at]
        held = (span["end"] == 0) | (span["from_ms"] <= now_ms) & (now_ms < span["until_ms"])
        for number in at[~held].tolist():
            self._make_wallet(number, now_ms)
        used = self._spans["used"][at].tolist()
        return [
            None if (account := self._accounts.get(number)) is None else _wallet(account, one, generation)
            for number, one in zip(numbers, used, strict=True)
        ]

    def _make_wallet(self, number: int, now_ms: int) -> None:
        """Make an account's wallet, or give the account back if it can't run."""
        account = self._accounts[number]
        wallet = self._wallet_elsewhere(account, now_ms)
        if wallet is None:
            self._unfit[number] = account.segment.key
            self.give_back([number])
            return
        account.balance, account.unpaid_invoices = wallet.balance, wallet.unpaid_invoices
        account.available = exact_subtract(wallet.balance, wallet.unpaid_invoices)
        span = self._spans[number]
        span["from_ms"], span["until_ms"] = account.ledger.balances.holds_ms
        used = int(self._table.rows["minor"][account.rows].sum())
        span["used"] = minor_units(wallet.usage, wallet.currency) + used

    def _wallet_elsewhere(self, account: _Account, now_ms: int) -> Wallet | None:
        """The wallet as the ledger has it, without the usage that is here; None if that is not all that
        changes, or no column holds it."""
        ledger, segment = account.ledger, account.segment
        currency = segment.plan.currency
        wallets = list(ledger.wallets(now_ms))
        if [wallet.currency for wallet in wallets] != [currency]:
            return None
        if ledger.balances.is_covered_at(currency, segment.start_ms, segment.period_ms):
            return None
        here = exact_sum(self._table.usages[row].amount for row in account.rows)
        wallet = structs.replace(wallets[0], usage=exact_subtract(wallets[0].usage, here))
        return wallet if abs(minor_units(wallet.usage, currency)) < USED_MAX else None

    def take_unsent(self, *, is_last: bool) -> RunningCharges:
        """Charges that changed and are to be sent now; see `Bills.charges`. The others stay."""
        table, usages = self._table.rows, self._table.usages
        rows = self._table.unsent()
        new = rows[~table["is_stored"][rows]]
        table["is_stored"][new] = [usages[row].is_stored for row in new.tolist()]
        rows = rows[table["is_stored"][rows] | is_last]
        table["is_unsent"][rows] = False
        account, quantity = table["account"][rows], self._table.quantities(rows)
        span = self._spans[account]
        return RunningCharges(
            account,
            table["place"][rows],
            span["first"],
            span["end"],
            table["price"][rows],
            table["events"][rows],
            span["moves"],
            quantity,
            self._table.priced(rows, quantity),
            self._table.unique[table["meter"][rows]],
        )

    def unsent(self) -> set[int]:
        """Accounts with charges that were not sent yet."""
        return set(self._table.rows["account"][self._table.unsent()].tolist())


def _wallet(account: _Account, used: int, generation: int) -> WalletRow:
    state, currency = account.ledger.state, account.segment.plan.currency
    usage = EXACT.scaleb(used, -MINOR_UNITS[currency])
    return WalletRow(
        state.tenant_id,
        state.customer_id,
        currency,
        account.balance,
        account.unpaid_invoices,
        usage,
        exact_subtract(account.available, usage),
        generation | (state.inputs + state.transitions),
        state.as_of_ms,
    )
