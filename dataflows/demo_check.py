"""Compares what a flow stored with the truth about what was produced: equal to the last digit, or named.

truth, ClickHouse, Redis -> one `Check` a store of results, each with all its differences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from clickhouse_connect.driver.client import Client
from redis import Redis

from dataflows.reports import quantity_text
from dataflows.truth import CENT, Truth
from dataflows.workload import Kind
from dataflows.workload_catalog import CURRENCY, PRICES
from sinks.wallet_store import read_wallet

ABSENT = "nothing"

WINDOWS = """
SELECT tenant_id, meter_id, external_customer_id,
       sum(events), sum(toDecimal256(total, 12)), uniqCombined64Merge(uniques)
FROM usage_windows FINAL GROUP BY tenant_id, meter_id, external_customer_id
"""
CHARGES = """
SELECT tenant_id, external_customer_id, meter_id, toUnixTimestamp(period_start), quantity, amount
FROM usage_charges FINAL
"""


@dataclass
class Check:
    """One comparison: how many values were compared, and a line for each that differs."""

    name: str
    compared: int = 0
    differences: list[str] = field(default_factory=list)

    def compare(self, expected: Mapping[Any, Any], found: Mapping[Any, Any]) -> None:
        """By key; what only one side has is a difference too."""
        keys = expected.keys() | found.keys()
        self.compared += len(keys)
        for key in sorted(keys, key=str):
            wanted, got = expected.get(key), found.get(key)
            if wanted != got:
                self.differences.append(f"{_text(key)}: expected {_text(wanted)}, found {_text(got)}")


def check_stores(truth: Truth, clickhouse: Client, redis: Redis) -> list[Check]:
    """Everything the demo promises, in the order of the data's way."""
    return [
        _events(truth, clickhouse),
        _windows(truth, clickhouse),
        _late(truth, clickhouse),
        _charges(truth, clickhouse),
        _wallets(truth, redis),
        _dead_letters(truth, clickhouse),
    ]


def _events(truth: Truth, clickhouse: Client) -> Check:
    check = Check("usage_events")
    counted = truth.kinds[Kind.GOOD] + truth.kinds[Kind.LATE]
    check.compare({"rows": counted}, {"rows": _one(clickhouse, "SELECT count() FROM usage_events FINAL")})
    check.compared = counted
    return check


def _windows(truth: Truth, clickhouse: Client) -> Check:
    """By tenant, meter and customer, all windows of each together: readings, total, distinct values."""
    check = Check("usage_windows")
    found = {tuple(row[:3]): tuple(row[3:]) for row in clickhouse.query(WINDOWS).result_rows}
    check.compare(
        {key: (usage.events, usage.total, len(usage.uniques)) for key, usage in truth.usage.items()}, found
    )
    return check


def _late(truth: Truth, clickhouse: Client) -> Check:
    check = Check("late_readings")
    found = _one(clickhouse, "SELECT count() FROM late_readings FINAL")
    check.compare({"rows": truth.late_readings}, {"rows": found})
    check.compared = truth.late_readings
    return check


def _charges(truth: Truth, clickhouse: Client) -> Check:
    """By customer, meter and month: quantity and rounded amount, late readings included."""
    check = Check("usage_charges")
    expected = {}
    for (tenant, customer, meter, month), usage in truth.bills.items():
        if meter in PRICES:
            quantity = usage.quantity(meter)
            amount = (quantity * Decimal(PRICES[meter])).quantize(CENT, ROUND_HALF_UP)
            expected[tenant, customer, meter, f"{month:%Y-%m}"] = (quantity, amount)
    found = {
        (tenant, customer, meter, f"{datetime.fromtimestamp(start_s, UTC):%Y-%m}"): (quantity, amount)
        for tenant, customer, meter, start_s, quantity, amount in clickhouse.query(CHARGES).result_rows
    }
    check.compare(expected, found)
    return check


def _wallets(truth: Truth, redis: Redis) -> Check:
    """By customer: balance, unpaid invoices, usage, what is available."""
    check = Check("wallets")
    expected, found = {}, {}
    for (tenant, customer), money in truth.wallets().items():
        key = (tenant, customer)
        expected[key] = (money.balance, money.unpaid_invoices, money.usage, money.available)
        for wallet in read_wallet(redis, tenant, customer, CURRENCY):
            found[key] = (wallet.balance, wallet.unpaid_invoices, wallet.usage, wallet.available)
    check.compare(expected, found)
    return check


def _dead_letters(truth: Truth, clickhouse: Client) -> Check:
    check = Check("dead_letters")
    rows = clickhouse.query("SELECT reason, count() FROM dead_letters FINAL GROUP BY reason").result_rows
    check.compare(Counter(map(str, truth.reasons.elements())), {str(reason): count for reason, count in rows})
    check.compared = truth.reasons.total()
    return check


def _one(clickhouse: Client, query: str) -> Any:
    return clickhouse.query(query).result_rows[0][0]


def _text(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, tuple):
        return " ".join(map(_text, value))
    return quantity_text(value) if isinstance(value, Decimal) else str(value)
