"""Wallet rows for tests."""

from __future__ import annotations

from decimal import Decimal

from schemas.wallets import WalletRow

NOW_MS = 1_795_426_200_123
"""2026-11-23 09:30:00.123 UTC."""


def wallet(customer: str, available: str, *, version: int = 1, as_of_ms: int = NOW_MS) -> WalletRow:
    """A wallet of tenant acme in USD that has had a credit and no usage."""
    amount = Decimal(available)
    return WalletRow("acme", customer, "USD", amount, Decimal(0), Decimal(0), amount, version, as_of_ms)
