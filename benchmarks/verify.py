"""What a finished flow left in ClickHouse and Redis against the truth, to the last digit.

Distinct counts are exact up to 4,096 values. Above, the state in a window must estimate what ClickHouse's own
`uniqCombined64` over the raw rows does, digit by digit, and a charge's quantity be within `ESTIMATE_ERROR`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from clickhouse_connect.driver.client import Client
from redis import Redis

from benchmarks import truth
from benchmarks.catalog import LLM, NAMES, PRICES, TENANT
from benchmarks.events import AMOUNT_SCALES, Events
from sinks.clickhouse import ClickHouseConfig
from tests.e2e.stores import Differences, read_wallets

ESTIMATE_ERROR = Decimal("0.02")

_RAW = """
SELECT toInt64(substring(id, 5)) AS number, toInt64(substring(external_customer_id, 6)) AS customer,
       toUnixTimestamp64Milli(timestamp) AS at_ms, indexOf({names:Array(String)}, event_name) - 1 AS name,
       toInt64(toDecimal64(coalesce(nullIf(JSONExtractRaw(properties, 'tokens'), ''),
               nullIf(JSONExtractRaw(properties, 'latency_ms'), ''),
               JSONExtractRaw(properties, 'gb_hours')), 4) * 10000) AS amount,
       toInt64OrZero(substring(JSONExtractString(properties, 'user_id'), 6)) AS user
FROM usage_events FINAL
"""
_WINDOWS = """
SELECT meter_id, external_customer_id, toUnixTimestamp(window_start), events, total,
       finalizeAggregation(uniques), version
FROM usage_windows FINAL WHERE tenant_id = {tenant:String}
"""
_OWN_UNIQUES = """
SELECT 'active-users', external_customer_id, toUnixTimestamp(toStartOfMinute(timestamp)) AS start,
       uniqCombined64(JSONExtractString(properties, 'user_id'))
FROM usage_events FINAL WHERE event_name = {llm:String}
GROUP BY external_customer_id, start HAVING count() > {exact:UInt64}
"""
_CHARGES = """
SELECT meter_id, external_customer_id, toUnixTimestamp(period_start), events, quantity, amount
FROM usage_charges FINAL WHERE tenant_id = {tenant:String}
"""


@dataclass(frozen=True)
class Verdict:
    """What was compared, and how it differs."""

    rows: int
    wrong: str

    def __str__(self) -> str:
        return f"{self.rows:,} rows right" if not self.wrong else f"WRONG: {self.wrong}"


def verify(clickhouse_url: str, redis_url: str, events: Events, customers: int) -> Verdict:
    """Every raw row, window, charge and wallet of a log; `customers` had a credit each."""
    found = Differences()
    with (
        closing(ClickHouseConfig(url=clickhouse_url, receive_timeout_s=300).connect()) as clickhouse,
        closing(Redis.from_url(redis_url)) as redis,
    ):
        raw = _compare_raw(found, clickhouse, truth.counted(events))
        windows = _compare_windows(found, clickhouse, truth.windows(events))
        charges = _compare_charges(found, clickhouse, truth.months(events))
        left = {customer: w[3] for (_, customer, _), w in read_wallets(redis).items()}
        found.compare("wallets", truth.wallets(charges, customers), left)
        rejected = _rows(clickhouse, "SELECT 'rows', count() FROM dead_letters")
        found.compare("dead_letters", {"rows": 0}, dict(rejected))
    return Verdict(raw + windows + len(charges) + len(left), str(found) if found else "")


def _rows(clickhouse: Client, query: str, **parameters: Any) -> Iterable[Any]:
    return clickhouse.query(query, parameters=parameters, settings={"max_threads": 2}).result_rows


def _compare_raw(found: Differences, clickhouse: Client, once: Events) -> int:
    table = clickhouse.query_arrow(_RAW, parameters={"names": list(NAMES)})
    stored = {name: table.column(name).to_numpy() for name in table.column_names}
    order = np.argsort(stored["number"], kind="stable")
    scale = np.array([10 ** (4 - decimals) for decimals in AMOUNT_SCALES])
    wanted = {
        "number": once.number,
        "customer": once.customer,
        "at_ms": once.at_ms,
        "name": once.name,
        "amount": once.amount * scale[once.name],
        "user": np.where(once.name == NAMES.index(LLM), once.user, 0),
    }
    if len(order) != len(once):
        found.compare("usage_events", {"rows": len(once)}, {"rows": len(order)})
    else:
        for name, column in wanted.items():
            differing = int((stored[name][order] != column).sum())
            found.compare(f"usage_events.{name}", {"differing": 0}, {"differing": differing})
    return len(order)


def _compare_windows(found: Differences, clickhouse: Client, cells: truth.Cells) -> int:
    own = {
        tuple(row[:3]): row[3] for row in _rows(clickhouse, _OWN_UNIQUES, llm=LLM, exact=truth.EXACT_UNIQUES)
    }
    wanted = {
        key: (
            cell.events,
            cell.total,
            # By the exact count: the estimate of a few more than 4,096 may be less.
            own.get(key, cell.uniques) if cell.uniques > truth.EXACT_UNIQUES else cell.uniques,
            cell.events,
        )
        for key, cell in cells.items()
    }
    stored = {tuple(row[:3]): tuple(row[3:7]) for row in _rows(clickhouse, _WINDOWS, tenant=TENANT)}
    found.compare("usage_windows", wanted, stored)
    return len(stored)


def _compare_charges(
    found: Differences, clickhouse: Client, cells: truth.Cells
) -> dict[tuple[str, str, int], Decimal]:
    """The amounts as they should be; of an estimated count, as they are if the estimate is good."""
    stored = {tuple(row[:3]): tuple(row[3:6]) for row in _rows(clickhouse, _CHARGES, tenant=TENANT)}
    wanted: dict[Any, Any] = {}
    for key, cell in cells.items():
        if key[0] not in PRICES:
            continue
        quantity = cell.quantity(key[0])
        if key[0] == "active-users" and quantity > truth.EXACT_UNIQUES and key in stored:
            estimate = stored[key][1]
            quantity = estimate if abs(estimate - quantity) <= quantity * ESTIMATE_ERROR else quantity
        amount = truth.charge(key[0], truth.Cell(cell.events, quantity, int(quantity)))
        wanted[key] = (cell.events, quantity, amount)
    found.compare("usage_charges", wanted, stored)
    return {key: amount for key, (_, _, amount) in wanted.items()}
