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
from schemas.money import exact_add, exact_subtract


class Wallet(msgspec.Struct, frozen=True):
    """One currency of one customer at one moment; see `schemas.wallets.WalletRow`."""

    currency: str
    balance: Decimal
    unpaid_invoices: Decimal
    usage: Decimal

    @property
    def available(self) -> Decimal:
        unpaid = self.unpaid_invoices
        balance = exact_subtract(self.balance, unpaid) if unpaid else self.balance  # as of most wallets
        return exact_subtract(balance, self.usage)


class Balances:
    """One wallet for every currency that an account has seen."""

    __slots__ = ("_covered", "_from_ms", "_has_changed", "_until_ms", "_used", "_wallets")

    def __init__(self) -> None:
        self._wallets: list[Wallet] = []
        """By currency."""
        self._used: dict[str, Decimal] = {}
        """By currency: the wallets' usage, which may have changed since they were made."""
        self._has_changed = False
        self._covered: frozenset[tuple[str, int]] = frozenset()
        self._from_ms, self._until_ms = END_MS, BEGINNING_MS

    def hold_at(self, now_ms: int) -> bool:
        """Whether the sums are of this moment: made, and no credit expired since."""
        return self._from_ms <= now_ms < self._until_ms

    @property
    def holds_ms(self) -> tuple[int, int]:
        """Of which moments the sums are: from when they were made until a credit expires."""
        return self._from_ms, self._until_ms

    def is_covered_at(self, currency: str, start_ms: int, period_ms: int) -> bool:
        """Whether an invoice covers usage of a segment."""
        return (currency, period_ms) in self._covered or (currency, start_ms) in self._covered

    def forget(self) -> None:
        """The sums must be made anew."""
        self._from_ms, self._until_ms = END_MS, BEGINNING_MS

    def change(self, usage: Usage, before: Decimal) -> None:
        """A usage was priced: take its amount of before out, put that of now in."""
        if self._covered and usage.is_covered(self._covered):
            return
        used = self._used.get(usage.currency)
        if used is not None:
            self._used[usage.currency] = exact_add(used, exact_subtract(usage.amount, before))
            self._has_changed = True

    def wallets(self) -> list[Wallet]:
        """The wallets, by currency."""
        if self._has_changed:
            self._has_changed = False
            self._wallets = [
                Wallet(one.currency, one.balance, one.unpaid_invoices, self._used[one.currency])
                for one in self._wallets
            ]
        return self._wallets

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
        currencies = sorted(balance.keys() | unpaid.keys() | used.keys())
        self._used = {c: used.get(c, ZERO) for c in currencies}
        self._wallets = [
            Wallet(c, balance.get(c, ZERO), unpaid.get(c, ZERO), self._used[c]) for c in currencies
        ]
        self._has_changed = False
        self._covered, self._from_ms, self._until_ms = covered, now_ms, until_ms


def _add(sums: dict[str, Decimal], currency: str, amount: Decimal) -> None:
    sums[currency] = exact_add(sums.get(currency, ZERO), amount)
