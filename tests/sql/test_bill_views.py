"""The views bill_preview and revenue: newest versions alone, bounds, tenants, exact sums."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from schemas.arrow import USAGE_CHARGES

D = Decimal
NOVEMBER, DECEMBER = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
CHANGED = datetime(2026, 11, 10, 12, tzinfo=UTC)
"""When cust's plan changes from starter to pro."""
TIERS = '[{"up_to":"1000","quantity":"1000","unit_amount":"0.002","flat_amount":"0","amount":"2"}]'
LARGEST = D("99999999999999999999999999")


def charge(amount: str | Decimal, version: int = 1, **columns: Any) -> dict[str, Any]:
    return {
        "tenant_id": "acme",
        "external_customer_id": "cust",
        "period_start": NOVEMBER,
        "period_end": CHANGED,
        "meter_id": "tokens",
        "plan_id": "starter",
        "currency": "USD",
        "events": 3,
        "quantity": D(1000),
        "amount_unrounded": D(amount),
        "amount": round(D(amount), 2),
        "tiers": TIERS,
        "version": version,
    } | columns


PRO: dict[str, Any] = {"plan_id": "pro", "currency": "EUR", "period_start": CHANGED, "period_end": DECEMBER}
NOTHING: dict[str, Any] = {"events": 0, "quantity": D(0), "tiers": "[]"}
DAY_2, DAY_3 = datetime(2026, 11, 2, tzinfo=UTC), datetime(2026, 11, 3, tzinfo=UTC)
BIG: dict[str, Any] = {
    "external_customer_id": "big",
    "plan_id": "daily",
    "period_start": DAY_2,
    "period_end": DAY_3,
}
VERSIONS = [
    charge("2"),
    charge("2.004", 1 << 52),
    charge("1.5", 7),  # an older version, sent again
    charge("0.001", meter_id="calls", tiers="[]"),
    charge("9", 1, period_end=DECEMBER, meter_id="calls", plan_id="starter"),  # before the plan changed
    charge("0.009", 2, meter_id="calls", tiers="[]"),
    charge("49", meter_id="", events=0, quantity=D(0), tiers="[]", **PRO),
    charge("3", **PRO),
    # A plan that did not hold after all: what it asked for was sent again, as 0.
    charge("5", 1, plan_id="never", period_end=DECEMBER),
    charge("0", 2, plan_id="never", period_end=DECEMBER, **NOTHING),
    charge("0", meter_id="gb", **PRO),  # free units
    charge("100", tenant_id="other"),
    charge("8", external_customer_id="second"),
    charge(LARGEST, meter_id="a", **BIG),
    charge(LARGEST, meter_id="b", **BIG),
]


@pytest.fixture(scope="module")
def charges(clickhouse: Client) -> Client:
    """Each version in a part of its own: neither an insert nor a merge has collapsed them."""
    clickhouse.command("SYSTEM STOP MERGES usage_charges")
    for row in VERSIONS:
        clickhouse.insert_arrow("usage_charges", pa.Table.from_pylist([row], schema=USAGE_CHARGES))
    return clickhouse


PREVIEW = "bill_preview(tenant={tenant:String}, customer={customer:String}, at={at:String})"
REVENUE = "revenue(tenant={tenant:String}, since={since:String}, until={until:String})"


def preview(client: Client, columns: str, at: str, customer: str = "cust", tenant: str = "acme") -> list[Any]:
    asked = {"tenant": tenant, "customer": customer, "at": at}
    query = f"SELECT {columns} FROM {PREVIEW} ORDER BY ALL"
    return list(client.query(query, parameters=asked).result_rows)


def revenue(client: Client, since: str, until: str, tenant: str = "acme") -> list[Any]:
    asked = {"tenant": tenant, "since": since, "until": until}
    query = f"SELECT * FROM {REVENUE} ORDER BY day, plan_id, currency"
    return list(client.query(query, parameters=asked).result_rows)


def test_a_preview_has_the_newest_version_of_each_charge_around_the_moment(charges: Client) -> None:
    rows = preview(charges, "plan_id, meter_id, amount_unrounded, amount", "2026-11-05 00:00:00")
    assert rows == [
        ("starter", "calls", D("0.009"), D("0.01")),
        ("starter", "tokens", D("2.004"), D("2")),
    ]
    columns = "external_customer_id, period_start, period_end, currency, events, quantity, tiers"
    [_, tokens] = preview(charges, columns + ", meter_id", "2026-11-05 00:00:00")
    assert tokens[0] == "cust"
    assert [at.replace(tzinfo=UTC) for at in tokens[1:3]] == [NOVEMBER, CHANGED]
    assert tokens[3:6] == ("USD", 3, D(1000))
    assert json.loads(tokens[6])[0]["amount"] == "2"


@pytest.mark.parametrize(
    ("at", "plans"),
    [
        ("2026-10-31 23:59:59", set()),
        ("2026-11-01 00:00:00", {"starter"}),
        ("2026-11-10 11:59:59", {"starter"}),
        ("2026-11-10 12:00:00", {"pro"}),
        ("2026-11-30 23:59:59", {"pro"}),
        ("2026-12-01 00:00:00", set()),
    ],
)
def test_a_segment_has_its_start_and_not_its_end(charges: Client, at: str, plans: set[str]) -> None:
    """An older version of `calls` went on until December; it must not come back where the newer one ended."""
    assert {plan for (plan,) in preview(charges, "plan_id", at)} == plans


def test_a_fee_without_usage_and_usage_without_a_price_are_in_the_preview(charges: Client) -> None:
    rows = preview(charges, "meter_id, quantity, amount", "2026-11-20 00:00:00")
    assert rows == [("", D(0), D(49)), ("gb", D(1000), D(0)), ("tokens", D(1000), D(3))]


def test_no_customer_is_all_of_the_tenant(charges: Client) -> None:
    at = "2026-11-02 00:00:00"
    by_customer = f"SELECT external_customer_id, sum(amount) FROM {PREVIEW} GROUP BY ALL ORDER BY ALL"
    sums = charges.query(by_customer, parameters={"tenant": "acme", "customer": "", "at": at}).result_rows
    assert sums == [("big", 2 * LARGEST), ("cust", D("2.01")), ("second", D(8))]  # past Decimal(38, 12)
    assert preview(charges, "amount", at, tenant="other") == [(D(100),)]
    assert preview(charges, "amount", at, customer="nobody") == []


def test_revenue_is_on_the_day_that_its_segment_starts(charges: Client) -> None:
    rows = revenue(charges, "2026-11-01 00:00:00", "2026-12-01 00:00:00")
    assert rows == [
        (date(2026, 11, 1), "starter", "USD", 2, D("10.013"), D("10.01")),
        (date(2026, 11, 2), "daily", "USD", 1, 2 * LARGEST, 2 * LARGEST),
        (date(2026, 11, 10), "pro", "EUR", 1, D(52), D(52)),
    ]
    assert revenue(charges, "2026-11-01 00:00:00", "2026-12-01 00:00:00", tenant="none") == []


def test_revenue_since_is_inclusive_and_until_exclusive(charges: Client) -> None:
    days = [row[0].day for row in revenue(charges, "2026-11-02 00:00:00", "2026-11-10 12:00:00")]
    assert days == [2]
    days = [row[0].day for row in revenue(charges, "2026-11-02 00:00:01", "2026-11-10 12:00:01")]
    assert days == [10]


def test_all_revenue_is_all_that_the_previews_say(charges: Client) -> None:
    total = sum(row[5] for row in revenue(charges, "2026-11-01 00:00:00", "2026-12-01 00:00:00"))
    moments = ("2026-11-01 00:00:00", "2026-11-02 00:00:00", "2026-11-20 00:00:00")
    columns = "external_customer_id, period_start, meter_id, amount"
    rows = {row for at in moments for row in preview(charges, columns, at, customer="")}
    assert sum(row[3] for row in rows) == total
