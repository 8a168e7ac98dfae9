"""The wallets of one account, kept up to date: credits, invoices and priced usage, summed by currency. Pure.

A usage that is priced again adds its difference; whatever else changes an account (its events, another
timeline, something forgotten) has the sums made anew when they are asked for next. Either way they are the
same (tests/operators/test_balances.py): decimals are exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from operators.account_state import ZERO, AccountState, Usage
from operators.timeline import BEGINNING_MS, END_MS
from schemas.money import EXACT


class Wallet(msgspec.Struct, frozen=True):
    """One currency of one customer at one moment; see `schemas.wallets.WalletRow`."""

    currency: str
    balance: Decimal
    unpaid_invoices: Decimal
    usage: Decimal

    @property
    def available(self) -> Decimal:
        return EXACT.subtract(EXACT.subtract(self.balance, self.unpaid_invoices), self.usage)


class Balances:
    """One wallet for every currency that an account has seen."""

    __slots__ = ("_covered", "_from_ms", "_until_ms", "wallets")

    def __init__(self) -> None:
        self.wallets: dict[str, Wallet] = {}
        """By currency, in its order."""
        self._covered: frozenset[tuple[str, int]] = frozenset()
        self._from_ms, self._until_ms = END_MS, BEGINNING_MS

    def hold_at(self, now_ms: int) -> bool:
        """Whether the sums are of this moment: made, and no credit expired since."""
        return self._from_ms <= now_ms < self._until_ms

    def forget(self) -> None:
        """The sums must be made anew."""
        self._from_ms, self._until_ms = END_MS, BEGINNING_MS

    def change(self, usage: Usage, before: Decimal) -> None:
        """A usage was priced: take its amount of before out, put that of now in."""
        if self._covered and usage.is_covered(self._covered):
            return
        was = self.wallets.get(usage.currency)
        if was is not None:
            used = EXACT.add(was.usage, EXACT.subtract(usage.amount, before))
            self.wallets[was.currency] = Wallet(was.currency, was.balance, was.unpaid_invoices, used)

    def make(self, state: AccountState, usages: Iterable[Usage], now_ms: int) -> None:
        """Sum everything; every usage is priced."""
        balance = {currency: overdraft.copy_negate() for currency, overdraft in state.overdrafts.items()}
        until_ms = END_MS
        for grant in state.grants:
            live = grant.expires_ms is None or grant.expires_ms > now_ms
            _add(balance, grant.currency, grant.remaining if live else ZERO)
            if grant.expires_ms is not None and live:
                until_ms = min(until_ms, grant.expires_ms)
        unpaid: dict[str, Decimal] = {}
        for invoice in state.invoices:
            _add(unpaid, invoice.currency, invoice.unpaid)
        covered = frozenset((i.currency, i.period_ms) for i in state.invoices if not i.is_void)
        used: dict[str, Decimal] = {}
        for usage in usages:
            _add(used, usage.currency, ZERO if usage.is_covered(covered) else usage.amount)
        self.wallets = {
            c: Wallet(c, balance.get(c, ZERO), unpaid.get(c, ZERO), used.get(c, ZERO))
            for c in sorted(balance.keys() | unpaid.keys() | used.keys())
        }
        self._covered, self._from_ms, self._until_ms = covered, now_ms, until_ms


def _add(sums: dict[str, Decimal], currency: str, amount: Decimal) -> None:
    sums[currency] = EXACT.add(sums.get(currency, ZERO), amount)
