"""The five price models: a table of cases each, and what must hold for any price."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.money import EXACT
from schemas.prices import PRICE_MODELS, TIERS_MAX, Price
from tests.builders import price

D = Decimal
TIERS = [(10, "5", "1"), (20, "4", "2"), (None, "3", "0")]
"""up_to, unit_amount, flat_amount"""

QUANTITIES = st.decimals(min_value=0, max_value=10**12, places=12)
AMOUNTS = st.decimals(min_value=0, max_value=10**6, places=12)


@st.composite
def tier_lists(draw: st.DrawFn, flat: bool = True) -> list[tuple[Decimal | None, Decimal, Decimal]]:
    bounds = sorted(draw(st.sets(st.decimals(min_value="1e-12", max_value=10**9, places=12), max_size=4)))
    flats = AMOUNTS if flat else st.just(D(0))
    return [(bound, draw(AMOUNTS), draw(flats)) for bound in [*bounds, None]]


@st.composite
def prices(draw: st.DrawFn) -> Price:
    model = draw(st.sampled_from(sorted(PRICE_MODELS)))
    if model in {"graduated", "volume"}:
        return price(model, tiers=draw(tier_lists()))
    if model == "package":
        return price(
            model, amount=draw(AMOUNTS), size=draw(st.decimals(min_value="1e-12", max_value=10**6, places=12))
        )
    return price(
        model, **{"flat": {"amount": draw(AMOUNTS)}, "per_unit": {"unit_amount": draw(AMOUNTS)}}[model]
    )


CASES: list[tuple[Price, str, str]] = [
    # flat: whatever the quantity
    *[(price("flat", amount="49.99"), quantity, "49.99") for quantity in ("0", "1", "1e9", "-5")],
    # per_unit: the quantity times the amount, unrounded
    (price(unit_amount="0.002"), "0", "0"),
    (price(unit_amount="0.002"), "1234.5", "2.469"),
    (price(unit_amount="0.000000000001"), "0.000000000001", "0.000000000000000000000001"),
    (price(unit_amount="0"), "5", "0"),
    (price(unit_amount="7"), "-5", "0"),  # a price never gives money back
    # package: every package begun
    (price("package", amount="10", size="100"), "0", "0"),
    (price("package", amount="10", size="100"), "0.000000000001", "10"),
    (price("package", amount="10", size="100"), "100", "10"),
    (price("package", amount="10", size="100"), "100.000000000001", "20"),
    (price("package", amount="10", size="0.5"), "1.2", "30"),
    (price("package", amount="10", size="3"), "10", "40"),
    (price("package", amount="10", size="100"), "-150", "0"),
    # graduated: each part at its tier's price, the flat amount of every tier entered
    (price("graduated", tiers=TIERS), "0", "0"),
    (price("graduated", tiers=TIERS), "1", "6"),
    (price("graduated", tiers=TIERS), "10", "51"),
    (price("graduated", tiers=TIERS), "10.5", "55"),  # 50 + 1, 2 + 2
    (price("graduated", tiers=TIERS), "20", "93"),
    (price("graduated", tiers=TIERS), "25", "108"),
    (price("graduated", tiers=TIERS), "-1", "0"),
    (price("graduated", tiers=[(None, "2", "3")]), "4", "11"),
    # volume: all of it at the price of the tier it falls in
    (price("volume", tiers=TIERS), "0", "0"),
    (price("volume", tiers=TIERS), "10", "51"),
    (price("volume", tiers=TIERS), "10.5", "44"),  # less than 10 cost
    (price("volume", tiers=TIERS), "20", "82"),
    (price("volume", tiers=TIERS), "25", "75"),
    (price("volume", tiers=TIERS), "-1", "0"),
]


@pytest.mark.parametrize(
    ("model", "quantity", "amount"), CASES, ids=lambda value: getattr(value, "model", value)
)
def test_what_a_quantity_costs(model: Price, quantity: str, amount: str) -> None:
    assert model.charge(D(quantity)).amount == D(amount)


def test_the_breakdown_names_every_tier_entered() -> None:
    charge = price("graduated", tiers=TIERS).charge(D("10.5"))
    assert json.loads(charge.tiers_json()) == [
        {"up_to": "10", "quantity": "10", "unit_amount": "5", "flat_amount": "1", "amount": "51"},
        {"up_to": "20", "quantity": "0.5", "unit_amount": "4", "flat_amount": "2", "amount": "4"},
    ]
    assert json.loads(price("volume", tiers=TIERS).charge(D(25)).tiers_json()) == [
        {"up_to": None, "quantity": "25", "unit_amount": "3", "flat_amount": "0", "amount": "75"}
    ]
    assert price().charge(D(5)).tiers_json() == "[]"


@given(prices(), QUANTITIES)
def test_the_breakdown_adds_up(model: Price, quantity: Decimal) -> None:
    charge = model.charge(quantity)
    if charge.tiers:
        assert sum_of([tier.amount for tier in charge.tiers]) == charge.amount
        assert sum_of([tier.quantity for tier in charge.tiers]) == quantity
    for tier in charge.tiers:
        assert tier.amount == EXACT.add(EXACT.multiply(tier.quantity, tier.unit_amount), tier.flat_amount)


@given(prices(), QUANTITIES, QUANTITIES)
def test_more_never_costs_less_but_by_volume(model: Price, one: Decimal, other: Decimal) -> None:
    assume(model.model != "volume")
    less, more = sorted((one, other))
    assert model.charge(less).amount <= model.charge(more).amount


@given(prices())
def test_nothing_costs_nothing_but_a_flat_price(model: Price) -> None:
    assert model.charge(D(0)).amount == (model.amount if model.model == "flat" else 0)


@given(prices(), QUANTITIES)
def test_a_negative_quantity_costs_what_none_costs(model: Price, quantity: Decimal) -> None:
    assert model.charge(-quantity) == model.charge(D(0))


@given(tier_lists(flat=False))
def test_graduated_is_continuous_at_its_bounds(tiers: list[tuple[Decimal | None, Decimal, Decimal]]) -> None:
    model = price("graduated", tiers=tiers)
    step = D("1e-12")
    for (bound, unit_amount, _), (_, next_unit_amount, _) in pairwise(tiers):
        assert bound is not None
        at, below, above = (model.charge(EXACT.add(bound, by)).amount for by in (D(0), -step, step))
        assert EXACT.subtract(at, below) == EXACT.multiply(step, unit_amount)
        assert EXACT.subtract(above, at) == EXACT.multiply(step, next_unit_amount)


@given(tier_lists(), st.integers(min_value=1, max_value=1000), QUANTITIES)
def test_scaling_unit_and_flat_amounts_scales_the_charge(
    tiers: list[tuple[Decimal | None, Decimal, Decimal]], factor: int, quantity: Decimal
) -> None:
    scaled = [
        (up_to, EXACT.multiply(unit, factor), EXACT.multiply(flat, factor)) for up_to, unit, flat in tiers
    ]
    for model in ("graduated", "volume"):
        once = price(model, tiers=tiers).charge(quantity).amount
        assert price(model, tiers=scaled).charge(quantity).amount == EXACT.multiply(once, factor)


@given(AMOUNTS, QUANTITIES, QUANTITIES)
def test_per_unit_is_linear(unit_amount: Decimal, one: Decimal, other: Decimal) -> None:
    model = price(unit_amount=unit_amount)
    both = model.charge(EXACT.add(one, other)).amount
    assert both == EXACT.add(model.charge(one).amount, model.charge(other).amount)
    assert price("graduated", tiers=[(None, unit_amount)]).charge(one).amount == model.charge(one).amount
    assert price("volume", tiers=[(None, unit_amount)]).charge(one).amount == model.charge(one).amount


@given(st.decimals(min_value="1e-6", max_value=10**6, places=6), st.integers(min_value=0, max_value=10**6))
def test_packages_step_just_past_each_full_one(size: Decimal, packages: int) -> None:
    model = price("package", amount="3", size=size)
    full = EXACT.multiply(size, packages)
    assert model.charge(full).amount == 3 * packages
    assert model.charge(EXACT.add(full, D("1e-12"))).amount == 3 * (packages + 1)


def sum_of(amounts: list[Decimal]) -> Decimal:
    total = D(0)
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total


def errors(spec: dict[str, Any]) -> list[tuple[str, str]]:
    """(where, message) of what is wrong, without the model's name in front."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Price).validate_python(spec)
    return [(".".join(map(str, one["loc"][1:])), one["msg"]) for one in caught.value.errors()]


@pytest.mark.parametrize(
    ("bounds", "wrong"),
    [
        ([5], [("tiers.0.up_to", "the last tier must be null")]),
        ([5, 10], [("tiers.1.up_to", "the last tier must be null")]),
        ([None, None], [("tiers.0.up_to", "only the last tier may be null")]),
        (
            [5, None, 10],
            [("tiers.1.up_to", "only the last tier may be null"), ("tiers.2.up_to", "must be null")],
        ),
        ([10, 5, None], [("tiers.1.up_to", "must be above the tier before, which ends at 10")]),
        ([5, 5, None], [("tiers.1.up_to", "must be above the tier before, which ends at 5")]),
        ([5, 5, 5, 5, None], [(f"tiers.{n}.up_to", "must be above the tier before") for n in (1, 2, 3)]),
        ([9, 5, 7, None], [(f"tiers.{n}.up_to", "which ends at 9") for n in (1, 2)]),
        ([0, None], [("tiers.0.up_to", "greater than 0")]),
        ([-1, None], [("tiers.0.up_to", "greater than 0")]),
        ([], [("tiers", "at least 1 item")]),
        ([*range(1, TIERS_MAX + 1), None], [("tiers", "at most 100 items")]),
    ],
)
@pytest.mark.parametrize("model", ["graduated", "volume"])
def test_tiers_that_leave_a_quantity_without_one_price_are_refused(
    model: str, bounds: list[int | None], wrong: list[tuple[str, str]]
) -> None:
    found = errors({"model": model, "tiers": [{"up_to": bound, "unit_amount": "1"} for bound in bounds]})
    assert [where for where, _ in found] == [where for where, _ in wrong]
    for (_, message), (_, part) in zip(found, wrong, strict=True):
        assert part in message


@pytest.mark.parametrize(
    ("spec", "where", "message"),
    [
        ({"model": "per_unit"}, "unit_amount", "required"),
        ({"model": "per_unit", "unit_amount": "-1"}, "unit_amount", "greater than or equal to 0"),
        ({"model": "per_unit", "unit_amount": 0.1}, "unit_amount", "float"),
        ({"model": "per_unit", "unit_amount": "1", "amount": "1"}, "amount", "not permitted"),
        ({"model": "package", "amount": "1", "size": "0"}, "size", "greater than 0"),
        ({"model": "volume", "tiers": [{"unit_amount": "1"}]}, "tiers.0.up_to", "required"),
        ({"model": "flat", "amount": "0.1234567890123"}, "amount", "at most 12 decimals"),
    ],
)
def test_prices_that_make_no_sense_are_refused(spec: dict[str, Any], where: str, message: str) -> None:
    found = dict(errors(spec))
    assert message in found[where]
