"""A wallet: what one customer has left in one currency, as of one moment of the stream; and its alerts.

As msgpack, both are arrays of their fields in this order, without names: a sink's state is made of them, so
another order or number of fields is another format there.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec


class WalletRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The whole wallet, absolute: `available = balance - unpaid_invoices - usage`."""

    tenant_id: str
    external_customer_id: str
    currency: str
    balance: Decimal
    unpaid_invoices: Decimal
    usage: Decimal
    """The priced current period, and closed periods that are not invoiced yet."""
    available: Decimal
    version: int
    """`generation << 40 |` inputs folded in: of the content, not of how often it was sent. Below 2^64."""
    as_of_ms: int
    """The newest append time folded in, ms since 1970."""


class WalletAlert(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A threshold that a wallet crossed: see operators/thresholds.py."""

    id: str
    """`tenant/customer/currency/threshold/direction/number of the crossing`, `/` and `%` of names
    percent-encoded. The same crossing has the same id in every replay."""
    tenant_id: str
    external_customer_id: str
    currency: str
    threshold_id: str
    kind: str
    """`low_balance` or `spend`."""
    direction: str
    """`down` or `up`."""
    threshold: Decimal
    """The amount that was crossed; of a percentage, as it is now."""
    value_before: Decimal
    value: Decimal
    """What is available, or usage not invoiced, before and now."""
    version: int
    as_of_ms: int
    """As in the wallet's row."""
