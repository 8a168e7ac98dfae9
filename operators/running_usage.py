"""Usage of the segments that accounts are in now, in columns: added to, priced and sent without ledgers.

Nearly all usage is of a segment that is running. A row (operators/usage_table.py) has it, from when the
account's wallet was sent (`take_up`) until anything else happens to the account (`give_back`): an account
event, an expired credit, usage of another segment. In between the ledger has what it had then, and the rows
are ahead of it; `copy_back` brings its numbers up to date for a snapshot. So what is kept, and what all of
this means, is in operators/ledger.py: nothing of it is here.

An account stays with its ledger that has wallets in two currencies or, in its running segment, a meter that
never resets, an invoice, an adjustment, or a price that is not of lines (operators/price_table.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from operators.ledger import Ledger
from operators.running_account import Running, can_begin, minor_units, release, take_back
from operators.running_charges import RunningCharges
from operators.timeline import Segment
from operators.usage_rows import UsageRows
from operators.usage_table import Table, UsageTable, grown
from schemas.catalog import Catalog
from schemas.money import EXACT, MINOR_UNITS, exact_subtract
from schemas.usage import I64, MINUTE_MS, U64
from schemas.wallets import WalletRow

ELSEWHERE = -2
"""Where usage stands that is to be added to its ledger."""

_SPAN = np.dtype([(name, np.int64) for name in ("first", "end", "from_ms", "until_ms", "used", "moves")])
"""An account: the minutes of its segment, when its wallet holds, the wallet's usage in minor units, and
`AccountState.moves`. All 0 of one that is not here."""


@dataclass(frozen=True, slots=True)
class _Account:
    ledger: Ledger
    segment: Segment
    currency: str
    balance: Decimal
    unpaid_invoices: Decimal
    before_usage: Decimal
    """What is available without any usage."""
    rows: list[int]


class RunningUsage:
    """The running usage of the accounts of one shard."""

    def __init__(self, catalog: Catalog) -> None:
        self._meter_ids = [meter.id for meter in catalog.meters]
        self._table = UsageTable(catalog)
        self.prices = self._table.prices
        self._accounts: dict[int, _Account] = {}
        self._spans: Table = np.zeros(0, _SPAN)
        """By account number."""

    def __contains__(self, number: int) -> bool:
        return number in self._accounts

    # -- from ledgers and back

    def take_up(self, accounts: Sequence[Running]) -> None:
        """Go on with the usage of these accounts, none of which is here."""
        if not accounts:
            return
        rows = self._table.put([(one.number, usage) for one in accounts for usage in one.usages])
        self._spans = grown(self._spans, 1 + max(one.number for one in accounts))
        first = 0
        for one in accounts:
            last = first + len(one.usages)
            self._begin(one, rows[first:last].tolist())
            first = last
        priced = self._table.priced(rows, self._table.quantities(rows))
        self._table.rows["minor"][rows] = priced.minor
        self._give_back_of(rows[~priced.is_exact])

    def _begin(self, one: Running, rows: list[int]) -> None:
        number, ledger, segment, usages, wallet = one
        release(ledger, usages)
        self._accounts[number] = _Account(
            ledger,
            segment,
            wallet.currency,
            wallet.balance,
            wallet.unpaid_invoices,
            exact_subtract(wallet.balance, wallet.unpaid_invoices),
            rows,
        )
        minutes = segment.start_ms // MINUTE_MS, segment.end_ms // MINUTE_MS
        self._spans[number] = (
            *minutes,
            *ledger.balances.holds_ms,
            minor_units(wallet),
            ledger.state.moves,
        )

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

    def _give_back_of(self, rows: I64) -> None:
        self.give_back(sorted(set(self._table.rows["account"][rows].tolist())))

    # -- usage

    def add(self, rows: UsageRows, tokens: U64, settled: int) -> tuple[I64, list[int]]:
        """Add usage, a row for each account and meter. Where what it was added to stands in its account, or
        `ELSEWHERE`; and the accounts in which a usage is new.

        :arg settled: Minutes before this one are in their segment for good.
        """
        place = np.full(len(rows.account), ELSEWHERE, np.int64)
        if not self._accounts:
            return place, []
        is_known = rows.account < len(self._spans)
        span = self._spans[np.where(is_known, rows.account, 0)]
        is_in = is_known & (rows.first >= span["first"]) & (rows.last < span["end"])
        at = np.flatnonzero(is_in & ((rows.first < settled) == (rows.last < settled)))
        row = self._table.find(rows.account[at], rows.meter[at])
        begun = self._begin_rows(row, rows.account[at], rows.meter[at])
        at, row = at[row >= 0], row[row >= 0]
        self._table.add(row, rows.at(at), tokens, settled)
        place[at] = self._table.rows["place"][row]
        return place, begun

    def _begin_rows(self, row: I64, account: I64, meter: I64) -> list[int]:
        """Begin a usage where there is none of a meter, and it may begin here; in these accounts.

        :arg row: Of each usage, or -1; those that are begun are put into it.
        """
        new = np.flatnonzero(row < 0)
        found = []
        for index, number, meter_index in zip(
            *(c.tolist() for c in (new, account[new], meter[new])), strict=True
        ):
            one, meter_id = self._accounts[number], self._meter_ids[meter_index]
            if can_begin(one.ledger, one.segment, meter_id):
                found.append((index, number, one.ledger.usage_of(one.segment, meter_id)))
        if not found:
            return []
        begun = self._table.put([(number, usage) for _, number, usage in found])
        row[[index for index, _, _ in found]] = begun
        self._table.rows["minor"][begun] = 0  # it was nothing before
        for added, (_, number, usage) in zip(begun.tolist(), found, strict=True):
            release(self._accounts[number].ledger, [usage])
            self._accounts[number].rows.append(added)
        return [number for _, number, _ in found]

    # -- out

    def price(self) -> None:
        """Price what changed; accounts with an amount that no column holds are given back."""
        table = self._table
        rows = table.take_stale()
        priced = table.priced(rows, table.quantities(rows))
        np.add.at(self._spans["used"], table.rows["account"][rows], priced.minor - table.rows["minor"][rows])
        table.rows["minor"][rows] = priced.minor
        self._give_back_of(rows[~priced.is_exact])

    def wallets(self, numbers: Sequence[int], now_ms: int, generation: int) -> list[WalletRow | None]:
        """The wallets of accounts, after `price`; None of those that are not here, or whose wallets have to
        be made anew: a credit expired.

        :arg generation: What all versions begin with.
        """
        self._spans = grown(self._spans, 1 + max(numbers, default=-1))
        span = self._spans[np.array(numbers, np.int64)]
        holds = (span["from_ms"] <= now_ms) & (now_ms < span["until_ms"])
        return [
            _wallet(self._accounts[number], used, generation) if holds_now else None
            for number, used, holds_now in zip(numbers, span["used"].tolist(), holds.tolist(), strict=True)
        ]

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
    state = account.ledger.state
    usage = EXACT.scaleb(used, -MINOR_UNITS[account.currency])
    return WalletRow(
        state.tenant_id,
        state.customer_id,
        account.currency,
        account.balance,
        account.unpaid_invoices,
        usage,
        exact_subtract(account.before_usage, usage),
        generation | (state.inputs + state.transitions),
        state.as_of_ms,
    )
