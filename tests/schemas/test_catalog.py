"""The catalog file: what it may say, and that every mistake is found at once, by path and line."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.catalog import CATALOG_BYTES_MAX, Catalog, CatalogError, load_catalog
from tests.builders import CATALOG_YAML, catalog, meter, plan, price

METERS = "meters: [{id: m, event_name: e, aggregation: {type: COUNT}}]\n"
PLAN = "{id: p, currency: EUR}"


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        load_catalog(text)
    lines = str(caught.value).splitlines()
    assert lines == [str(problem) for problem in caught.value.problems]
    return lines


def with_price(price: str, meter: str = "m") -> str:
    return f"{METERS}plans: [{{id: p, currency: EUR, charges: [{{meter: {meter}, price: {price}}}]}}]"


def test_a_catalog_is_read_whole() -> None:
    read = load_catalog(CATALOG_YAML)
    assert [one.id for one in read.meters] == [
        "llm-tokens",
        "api-calls",
        "active-users",
        "latency",
        "stored-gb",
    ]
    assert read.default_plan == "starter"
    assert read.plans_by_id["business"].timezone == "Europe/Berlin"
    assert read.meters_by_id["latency"].on_missing == "skip"
    assert {name: [one.id for one in found] for name, found in read.meters_by_event_name.items()} == {
        "llm_tokens": ["llm-tokens", "active-users"],
        "api_call": ["api-calls", "latency"],
        "storage": ["stored-gb"],
    }
    starter = read.plans_by_id["starter"].charges_by_meter
    assert starter["llm-tokens"].charge(Decimal(1500)).amount == Decimal("2.5")
    assert load_catalog(CATALOG_YAML.encode()) == read
    assert load_catalog(b"\xef\xbb\xbf" + CATALOG_YAML.encode()) == read


@pytest.mark.parametrize("written", ["0.002", '"0.002"', "'0.002'", "2e-3", "0.0020"])
def test_a_price_is_exactly_what_is_written_quoted_or_not(written: str) -> None:
    read = load_catalog(with_price(f"{{model: per_unit, unit_amount: {written}}}"))
    assert read.plans[0].charges[0].charge(Decimal(10) ** 17).amount == 2 * 10**14


def test_filter_values_compare_as_events_are_compared() -> None:
    text = """meters:
  - {id: m, event_name: e, aggregation: {type: COUNT}, filters: [{key: k, values: [%s]}]}"""
    written = '1000000, 1e6, 1.50, "1.50", true, "true", NO, yes, 0x10, 010, 1_000, 2026-11-23, 12:30:00, -0'
    kept = load_catalog(text % written).meters[0].filters[0].values
    assert kept == (
        *("1000000", "1000000", "1.5", "1.50", "true", "true", "NO", "yes"),
        *("0x10", "010", "1_000", "2026-11-23", "12:30:00", "0"),
    )


def test_anchors_and_merges_work() -> None:
    read = load_catalog(
        """
meters:
  - &base {id: a, event_name: e, aggregation: {type: COUNT}, window: 1h}
  - {<<: *base, id: b}
"""
    )
    assert [(one.id, one.window) for one in read.meters] == [("a", "1h"), ("b", "1h")]


def test_all_problems_are_found_at_once() -> None:
    text = """
meters:
  - id: tokens
    event_name: llm_tokens
    agregation: {type: SUM, field: tokens}
    window: 2m
    window: 3m
    filters: [{key: a, values: [null, [1]]}]
  - id: tokens
    event_name: 5
    aggregation: {type: SUM}
plans:
  - id: starter
    currency: BTC
    timezone: Mars/Olympus
    charges:
      - meter: tokns
        price: {model: graduated, tiers: [{up_to: 1000, unit_amount: 0.002}, {up_to: 500}, {up_to: 700}]}
      - meter: tokens
        price: {model: per-unit, unit_amount: 1}
      - {meter: tokens, price: {unit_amount: 1}}
      - {meter: tokens, price: {model: package, amount: abc, size: 0}}
      - {price: {model: per_unit, unit_amount: 0.0000000000001}}
default_plan: startr
color: red
"""
    ends_at = "must be above the tier before, which ends at 1000: tiers are in order and don't overlap"
    last = "the last tier must be null: every quantity needs a price"
    scalar = "must be a string, a number as text, an integer, true or false"
    price_models = "'flat', 'per_unit', 'package', 'graduated', 'volume'"
    assert problems(text) == [
        "line 3: meters[0].aggregation: is required",
        'line 5: meters[0].agregation: is not a known key; did you mean "aggregation"?',
        "line 7: meters[0].window: is a key twice in one mapping, in lines 6 and 7",
        "line 7: meters[0].window: must be '1m', '5m', '15m', '1h' or '1d', got \"3m\"",
        f"line 8: meters[0].filters[0].values[0]: {scalar}, got null",
        f"line 8: meters[0].filters[0].values[1]: {scalar}",
        'line 9: meters[1].id: "tokens" is the id of meters[0] as well',
        "line 11: meters[1].aggregation: SUM needs a field: the first-level property it reads",
        'line 14: plans[0].currency: must be an ISO 4217 currency code, got "BTC"',
        'line 15: plans[0].timezone: must be an IANA time zone, such as "Europe/Berlin", got "Mars/Olympus"',
        'line 17: plans[0].charges[0].meter: "tokns" is not a meter; did you mean "tokens"?',
        f'line 18: plans[0].charges[0].price.tiers[1].up_to: {ends_at}, got "500"',
        f'line 18: plans[0].charges[0].price.tiers[2].up_to: {last}, got "700"',
        f'line 18: plans[0].charges[0].price.tiers[2].up_to: {ends_at}, got "700"',
        f'line 20: plans[0].charges[1].price.model: must be one of {price_models}, got "per-unit"',
        "line 21: plans[0].charges[2].price.model: is required",
        'line 22: plans[0].charges[3].price.amount: must be a number of at most 64 characters, got "abc"',
        "line 22: plans[0].charges[3].price.size: must be greater than 0, got 0",
        "line 23: plans[0].charges[4].price.unit_amount: must have at most 12 decimals, got 0.0000000000001",
        'line 24: default_plan: "startr" is not a plan; did you mean "starter"?',
        "line 25: color: is not a known key",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["must be a mapping, got null"]),
        ("- a", ["line 1: must be a mapping, got a list"]),
        ("meters: []", ["line 1: meters: must have at least 1 item"]),
        ("plans: []", ["line 1: meters: is required"]),
        ("meters: 3", ["line 1: meters: must be a list, got 3"]),
        (METERS + "plans: [x]", ['line 2: plans[0]: must be a mapping, got "x"']),
        ("a: [", ["line 1: not YAML, column 5: while parsing a flow node expected the node content"]),
        ("a: 1\nb: @", ["line 2: not YAML, column 4: while scanning for the next token found character '@'"]),
        ("a: 1\n---\nb: 2", ["line 2: not YAML, column 1: expected a single document"]),
        ("x: *nowhere", ["line 1: not YAML, column 4: found undefined alias 'nowhere'"]),
        ("x: !!python/name:os.system", ["not YAML, column 4: could not determine a constructor"]),
        ("? [1]\n: 2", ["line 1: not YAML, column 3: while constructing a mapping found unhashable key"]),
        ("a: \x00", ["not YAML: unacceptable character #x0000"]),
        (b"\xff", ["not UTF-8 at byte 0"]),
        ("[" * 3000, ["nested too deeply"]),
        ("#" * (CATALOG_BYTES_MAX + 1), [f"over {CATALOG_BYTES_MAX} bytes"]),
        (METERS + METERS, ["line 2: meters: is a key twice in one mapping, in lines 1 and 2"]),
        (METERS + f"plans: [{PLAN}, {PLAN}]", ['line 2: plans[1].id: "p" is the id of plans[0] as well']),
        (METERS + "default_plan: p", ['line 2: default_plan: "p" is not a plan']),
        (with_price("{model: flat, amount: !!float 1.5}"), ["could not determine a constructor for the tag"]),
        ("x: !!int zz", ["line 1: not YAML, column 4: could not determine a constructor for the tag"]),
        (METERS + "1.5: x", ["line 2: 1.5: is not a known key"]),
        (METERS + "true: x", ["line 1: has the key true: keys are text"]),
        (METERS + '"a\\nb\\u2028": x', ["line 2: a\\nb\\u2028: is not a known key"]),
        (METERS + 'default_plan: "\\x85"', ["pattern", 'line 2: default_plan: "\\x85" is not a plan']),
        (with_price("{model: flat, amount: true}"), ["price.amount: must be a number as text"]),
        (with_price("{model: flat, amount: 1}", "x"), ['plans[0].charges[0].meter: "x" is not a meter']),
    ],
)
def test_what_is_no_catalog_says_so(text: str | bytes, found: list[str]) -> None:
    lines = problems(text)
    assert len(lines) == len(found)
    for line, part in zip(lines, found, strict=True):
        assert part in line


@given(
    st.text()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(["meters", "plans", "id", "charges", "price", "model", "tiers"]), x
            )
        ),
    )
)
def test_no_text_does_more_than_raise_a_catalog_error(value: Any) -> None:
    assert problems(value if isinstance(value, str) else yaml.safe_dump(value))


def test_a_catalog_made_in_python_is_checked_as_well() -> None:
    with pytest.raises(ValidationError, match='"nobody" is not a plan'):
        catalog(default_plan="nobody")
    with pytest.raises(ValidationError, match='"llm-tokens" is not a meter'):
        catalog(meter("other"), plans=[plan()])
    with pytest.raises(ValidationError, match=r"is the id of meters\[0\] as well"):
        catalog(meter(), meter())


def test_the_fingerprint_is_of_the_meaning_not_of_the_text() -> None:
    one = catalog(meter("a"), meter("b"), plans=[plan(charges={"a": price(unit_amount="0.10")})])
    same = catalog(
        meter("b"), meter("a"), plans=[plan(charges={"a": price(unit_amount="1e-1")}, currency="usd")]
    )
    assert one.fingerprint == same.fingerprint
    assert len(one.fingerprint) == 64


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"0.0001"', '"0.0002"'),
        ("window: 1h", "window: 1d"),
        ("[large, small]", "[large]"),
        ("free_units: 100", "free_units: 101"),
        ("default_plan: starter", "default_plan: business"),
        ("Europe/Berlin", "Europe/Paris"),
        ("reset_usage: NEVER", "reset_usage: BILLING_PERIOD"),
        ("up_to: 1000,", "up_to: 1001,"),
    ],
)
def test_every_change_of_meaning_changes_the_fingerprint(before: str, after: str) -> None:
    assert CATALOG_YAML.count(before) == 1
    changed = load_catalog(CATALOG_YAML.replace(before, after))
    assert changed.fingerprint != load_catalog(CATALOG_YAML).fingerprint


def test_the_fingerprint_does_not_depend_on_the_process() -> None:
    known = "957e208546ec02ce93bd87103c9c65481ee0442756d86162b4dc21e890a67eb9"
    assert (
        catalog().fingerprint == known
    )  # a new field changes it: on the next start every output is sent again


def test_a_catalog_can_be_left_without_plans() -> None:
    assert load_catalog(METERS) == Catalog(meters=[meter("m", event_name="e", type="COUNT")])
