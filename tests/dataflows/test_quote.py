"""A quote is what the flow would charge: against the oracle, and as a user reads it."""

from __future__ import annotations

import json
import re
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dataflows.exits import UserError
from dataflows.quote import quote, read_quantities
from schemas.catalog import load_catalog
from tests.dataflows.commands import meterline
from tests.oracle import read_catalog
from tests.oracle_prices import cost, plans_of, round_money

D = Decimal
MONEY = st.decimals(min_value=0, max_value=10**6, places=12) | st.decimals(min_value=0, max_value=1, places=3)
POSITIVE = st.decimals(min_value="1e-12", max_value=10**6, places=12)
QUANTITIES = st.decimals(min_value=0, max_value=10**12, places=12)

CATALOG = """
meters:
  - {id: calls, event_name: call, aggregation: {type: COUNT}}
  - {id: tokens, event_name: call, aggregation: {type: SUM, field: tokens}}
  - {id: gb, event_name: store, aggregation: {type: SUM, field: gb}}
  - {id: seats, event_name: call, aggregation: {type: COUNT_UNIQUE, field: user}}
plans:
  - id: pro
    currency: EUR
    charges:
      - {price: {model: flat, amount: "49.504"}}
      - {meter: calls, price: {model: per_unit, unit_amount: "0.0005"}, free_units: 100}
      - meter: tokens
        price:
          model: graduated
          tiers: [{up_to: 1000, unit_amount: "0.002"}, {up_to: null, unit_amount: "0.001", flat_amount: 5}]
      - {meter: seats, price: {model: package, amount: 10, size: 25}}
  - id: daily
    currency: JPY
    billing_period: DAILY
    charges:
      - meter: tokens
        price: {model: volume, tiers: [{up_to: 10, unit_amount: 3}, {up_to: null, unit_amount: "2.05"}]}
"""


@st.composite
def prices(draw: st.DrawFn, models: tuple[str, ...]) -> dict[str, Any]:
    model = draw(st.sampled_from(models))
    price: dict[str, Any] = {"model": model}
    if model == "per_unit":
        return price | {"unit_amount": str(draw(MONEY))}
    if model in {"flat", "package"}:
        size = {"size": str(draw(POSITIVE))} if model == "package" else {}
        return price | {"amount": str(draw(MONEY))} | size
    bounds = [*sorted(draw(st.sets(POSITIVE, max_size=4))), None]
    names = ("up_to", "unit_amount", "flat_amount")
    tiers = [(bound if bound is None else str(bound), str(draw(MONEY)), str(draw(MONEY))) for bound in bounds]
    return price | {"tiers": [dict(zip(names, tier, strict=True)) for tier in tiers]}


@st.composite
def catalogs(draw: st.DrawFn) -> str:
    """YAML of one plan that prices some of five meters, perhaps with a fee."""
    models = ("flat", "per_unit", "package", "graduated", "volume")
    meters = [f"m{number}" for number in range(5)]
    charges: list[dict[str, Any]] = []
    for meter in draw(st.sets(st.sampled_from(meters), min_size=2)):
        price = draw(prices(models))
        free = {} if price["model"] == "flat" else {"free_units": str(draw(QUANTITIES))}
        charges.append({"meter": meter, "price": price} | free)
    if draw(st.booleans()):
        charges.append({"price": draw(prices(("flat",)))})
    plan = {"id": "plan", "currency": draw(st.sampled_from(["USD", "JPY", "BHD"])), "charges": charges}
    count = {"type": "COUNT"}
    all_meters = [{"id": meter, "event_name": "e", "aggregation": count} for meter in meters]
    return yaml.safe_dump({"meters": all_meters, "plans": [plan]})


@given(catalogs(), st.lists(QUANTITIES, min_size=5, max_size=5), st.integers(0, 31))
def test_a_quote_is_what_the_oracle_charges(text: str, quantities: list[Decimal], used: int) -> None:
    catalog, plan = load_catalog(text), plans_of(read_catalog(text))["plan"]
    given_ = {f"m{number}": q for number, q in enumerate(quantities) if used >> number & 1}
    priced = {m: q for m, q in given_.items() if m in catalog.plans_by_id["plan"].charges_by_meter}
    quoted = quote(catalog.plans_by_id["plan"], priced)
    expected = {}
    with localcontext(prec=200):
        for line in plan["charges"]:
            quantity = priced.get(line.get("meter"), D(0))
            unrounded = cost(line["price"], quantity - D(line.get("free_units", 0)))
            expected[line.get("meter", "")] = (quantity, unrounded, round_money(unrounded, plan["currency"]))
        total = sum((amount for _, _, amount in expected.values()), D(0))
    found = {c.meter_id: (c.quantity, c.amount_unrounded, c.amount) for c in quoted.charges}
    assert found == expected
    assert quoted.total == total
    with localcontext(prec=200):
        for charge in quoted.charges:
            assert not charge.tiers or sum(tier.amount for tier in charge.tiers) == charge.amount_unrounded


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG)
    return path


def test_json_has_every_charge_with_its_tiers_as_texts(file: Path) -> None:
    usage = ["--usage", "calls=1228", "--usage", "tokens=1.504e3"]
    ran = meterline({}, "quote", "--catalog", str(file), "--plan", "pro", *usage, "--json")
    assert ran.code == 0, ran.err
    names = ("meter_id", "model", "quantity", "free_units", "amount_unrounded", "amount", "tiers")
    tier_names = ("up_to", "quantity", "unit_amount", "flat_amount", "amount")
    parts = [("1000", "1000", "0.002", "0", "2"), (None, "504", "0.001", "5", "5.504")]
    tiers = [dict(zip(tier_names, part, strict=True)) for part in parts]
    charges: list[tuple[Any, ...]] = [
        ("", "flat", "0", "0", "49.504", "49.5", []),
        ("calls", "per_unit", "1228", "100", "0.564", "0.56", []),
        ("tokens", "graduated", "1504", "0", "7.504", "7.5", tiers),
        ("seats", "package", "0", "0", "0", "0", []),
    ]
    assert json.loads(ran.out) == {
        "plan_id": "pro",
        "currency": "EUR",
        "billing_period": "MONTHLY",
        "charges": [dict(zip(names, charge, strict=True)) for charge in charges],
        "total": "57.56",  # and not 57.572, rounded
    }


def test_the_table_has_tiers_and_amounts_at_the_currencys_precision(file: Path) -> None:
    pro = meterline({}, "quote", "--catalog", str(file), "--plan=pro", "--usage=tokens=1500").out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in pro.splitlines() if "│" in line]
    assert cells == [
        ["(fee)", "49.504 a period", "", "", "49.504", "49.50"],
        ["calls", "0.0005 a unit", "0", "", "0", "0.00"],
        ["tokens", "graduated", "1500", "", "7.5", "7.50"],
        ["up to 1000", "0.002 a unit", "1000", "", "2", ""],
        ["without end", "0.001 a unit + 5", "500", "", "5.5", ""],
        ["seats", "10 per 25", "0", "", "0", "0.00"],
        ["total", "", "", "", "", "57.00"],
    ]


def test_the_catalog_of_the_settings_is_the_default(file: Path) -> None:
    ran = meterline({"METERLINE_CATALOG": str(file)}, "quote", "--plan=daily", "--usage=tokens=11", "--json")
    assert json.loads(ran.out)["total"] == "23"  # 22.55 yen


@pytest.mark.parametrize(
    ("usage", "sentence"),
    [
        (["call=1"], '"call" is not a meter; did you mean "calls"?'),
        (["gb=1"], 'no price for "gb"; meters that it prices: calls, tokens, seats'),
        (["calls"], '--usage "calls": must be METER=QUANTITY'),
        (["calls=1", "calls=2"], '"calls=2": is the second quantity'),
        (["calls=many"], 'got "many"'),
        (["calls="], "must be a number"),
        (["calls=-1"], 'must be greater than or equal to 0, got "-1"'),
        (["calls=nan"], 'got "nan"'),
        (["calls=1e18"], "must be below 1e18"),
        (["calls=1e-13"], "at most 12 decimals"),
        (["calls=x", "gbs=1"], 'x"; --usage "gbs=1": "gbs" is not a meter'),
    ],
)
def test_usage_that_cannot_be_quoted_is_named(usage: list[str], sentence: str) -> None:
    catalog = load_catalog(CATALOG)
    with pytest.raises(UserError, match=re.escape(sentence)):
        read_quantities(catalog, catalog.plans_by_id["pro"], usage)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--plan=prp"], '; did you mean "pro"?'),
        (["--plan=pro", "--usage=call=1"], '"call" is not a meter'),
    ],
)
def test_a_quote_that_cannot_be_made_exits_with_2(file: Path, arguments: list[str], sentence: str) -> None:
    ran = meterline({}, "quote", "--catalog", str(file), *arguments, "--json")
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err
    assert "Traceback" not in ran.err
