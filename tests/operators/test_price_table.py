"""Prices in columns are those of the plans, one by one; averages likewise."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.aggregate import Limbs
from operators.price_table import MINOR_MAX, PriceTable, averages
from operators.tariff import Tariff
from schemas.catalog import Catalog, load_catalog
from schemas.money import EXACT, MINOR_UNITS, round_money

UNIT = Decimal("1e-12")

units = st.integers(0, 10**15).map(lambda number: number * UNIT)
small = st.integers(0, 400).map(lambda number: number * Decimal("0.25"))
unit_amounts = st.one_of(small, units, st.sampled_from([Decimal("9e6"), Decimal(10) ** 7, Decimal(10) ** 17]))


def tiers_of(bounds: list[Decimal], amounts: list[tuple[Decimal, Decimal]]) -> list[dict[str, str | None]]:
    tops = [str(top) for top in sorted({bound for bound in bounds if bound})]
    return [
        {"up_to": top, "unit_amount": str(unit), "flat_amount": str(flat)}
        for top, (unit, flat) in zip([*tops, None], amounts, strict=False)
    ]


tiers = st.builds(
    tiers_of,
    st.lists(st.one_of(small, units), max_size=3),
    st.lists(st.tuples(unit_amounts, small), min_size=4, max_size=4),
)
prices = st.one_of(
    st.builds(lambda amount: {"model": "flat", "amount": str(amount)}, unit_amounts),
    st.builds(lambda amount: {"model": "per_unit", "unit_amount": str(amount)}, unit_amounts),
    st.builds(lambda found: {"model": "graduated", "tiers": found}, tiers),
    st.builds(lambda found: {"model": "volume", "tiers": found}, tiers),
)


def catalog_of(price: dict[str, Any], free_units: Decimal, currency: str) -> Catalog:
    free = "" if price["model"] == "flat" else f', free_units: "{free_units:f}"'
    charge = f"{{meter: m, price: {_yaml(price)}{free}}}"
    return load_catalog(
        "meters: [{id: m, event_name: e, aggregation: {type: COUNT}}]\n"
        f"plans: [{{id: p, currency: {currency}, charges: [{charge}]}}]\n"
    )


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if value is None:
        return "null"
    return value if value.isalpha() or "_" in value else f'"{Decimal(value):f}"'


def limbs(values: Sequence[int]) -> Limbs:
    lo = np.array([value & (1 << 64) - 1 for value in values], np.uint64)
    return lo, np.array([value >> 64 for value in values], np.int64)


def check(catalog: Catalog, quantities: Sequence[Decimal], currency: str) -> list[bool]:
    """Price quantities both ways; which of them the table holds."""
    table, price = PriceTable(catalog), Tariff(catalog).prices["p", "m"]
    numbers = np.full(len(quantities), table.numbers["p", "m"], np.int64)
    found = table.price(numbers, *limbs([int(quantity / UNIT) for quantity in quantities]))
    for row in np.flatnonzero(found.is_exact).tolist():
        unrounded = price(quantities[row])
        units_found = int(found.hi[row]) << 64 | int(found.lo[row])
        assert EXACT.scaleb(units_found, -24) == unrounded
        minor = EXACT.scaleb(int(found.minor[row]), -MINOR_UNITS[currency])
        assert minor == round_money(unrounded, currency)
    exact: list[bool] = found.is_exact.tolist()
    return exact


@given(
    prices,
    small,
    st.sampled_from(["USD", "JPY", "BHD", "CLF"]),
    st.lists(st.one_of(units, small, units.map(lambda quantity: -quantity)), min_size=1, max_size=20),
)
def test_an_amount_is_that_of_the_plan(
    price: dict[str, Any], free_units: Decimal, currency: str, quantities: list[Decimal]
) -> None:
    bounds = [Decimal(tier["up_to"]) for tier in price.get("tiers", ()) if tier["up_to"] is not None]
    edges = [free_units + bound + step for bound in [Decimal(0), *bounds] for step in (-UNIT, 0 * UNIT, UNIT)]
    check(catalog_of(price, free_units, currency), quantities + edges, currency)


@given(st.lists(units.filter(lambda quantity: quantity < 10**6), min_size=1))
def test_no_usual_amount_is_left_out(quantities: list[Decimal]) -> None:
    found: list[dict[str, str | None]] = [
        {"up_to": "5.5", "unit_amount": "900000", "flat_amount": "7"},
        {"up_to": None, "unit_amount": "0.000000000001", "flat_amount": "1000000"},
    ]
    assert all(
        check(catalog_of({"model": "graduated", "tiers": found}, Decimal(3), "USD"), quantities, "USD")
    )


def test_half_a_cent_is_rounded_up() -> None:
    catalog = catalog_of({"model": "per_unit", "unit_amount": "0.001"}, Decimal(0), "USD")
    table = PriceTable(catalog)
    found = table.price(
        np.ones(3, np.int64), *limbs([int(q / UNIT) for q in map(Decimal, ("4.999999999999", "5", "15"))])
    )
    assert found.minor.tolist() == [0, 1, 2]


def test_amounts_past_the_bound_are_marked() -> None:
    catalog = catalog_of({"model": "per_unit", "unit_amount": "1"}, Decimal(0), "USD")
    last = Decimal(MINOR_MAX - 1) / 100
    exact = check(catalog, [last, last + Decimal("0.01"), Decimal(10) ** 17, Decimal(10) ** 20], "USD")
    assert exact == [True, False, False, False]


@pytest.mark.parametrize(
    "price",
    [
        {"model": "package", "amount": "3", "size": "7"},
        {"model": "per_unit", "unit_amount": "100000000"},  # in units of 1e-12 more than 64 bits
    ],
)
def test_a_price_that_no_line_of_64_bits_is_has_no_row(price: dict[str, Any]) -> None:
    table = PriceTable(catalog_of(price, Decimal(0), "USD"))
    assert table.price(np.ones(1, np.int64), *limbs([10**12])).is_exact.tolist() == [False]


def test_usage_without_a_price_costs_nothing() -> None:
    table = PriceTable(catalog_of({"model": "flat", "amount": "5"}, Decimal(0), "USD"))
    found = table.price(np.array([0, 1]), *limbs([10**12, 10**12]))
    assert found.minor.tolist() == [0, 500]
    assert found.is_exact.tolist() == [True, True]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(-(10**37), 10**37), st.integers(1, (1 << 32) - 1)),
            st.tuples(st.integers(-50, 50), st.integers(1, 9)),
        ),
        min_size=1,
    )
)
def test_an_average_is_rounded_as_the_ledgers_are(rows: list[tuple[int, int]]) -> None:
    average = Tariff(
        load_catalog("meters: [{id: m, event_name: e, aggregation: {type: AVG, field: f}}]")
    ).quantities["m"]
    lo, hi = averages(*limbs([total for total, _ in rows]), np.array([events for _, events in rows]))
    for (total, events), low, high in zip(rows, lo.tolist(), hi.tolist(), strict=True):
        expected = average(events, EXACT.scaleb(total, -12), None)
        assert EXACT.scaleb(high << 64 | low, -12) == expected
