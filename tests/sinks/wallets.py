"""Wallet rows for tests, and what Redis published of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from redis import Redis

from schemas.wallets import WalletRow
from sinks.wallet_store import wallet_key

NOW_MS = 1_795_426_200_123
"""2026-11-23 09:30:00.123 UTC."""


def wallet(customer: str, available: str, *, version: int = 1, as_of_ms: int = NOW_MS) -> WalletRow:
    """A wallet of tenant acme in USD that has had a credit and no usage."""
    amount = Decimal(available)
    return WalletRow("acme", customer, "USD", amount, Decimal(0), Decimal(0), amount, version, as_of_ms)


def deltas(redis: Redis, row: WalletRow) -> list[tuple[Decimal, Decimal, int]]:
    """(delta, available, version) of each entry of a wallet's currency."""
    entries: Any = redis.xrange(wallet_key(row.tenant_id, row.external_customer_id, "deltas"))
    return [
        (Decimal(entry[b"delta"].decode()), Decimal(entry[b"available"].decode()), int(entry[b"version"]))
        for _, entry in entries
        if entry[b"currency"].decode() == row.currency
    ]
