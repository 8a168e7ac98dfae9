from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from schemas.accounts import AccountEventError, ThresholdsSet, parse_account_event
from schemas.catalog import CatalogError, load_catalog
from schemas.thresholds import THRESHOLDS_MAX, Threshold, Thresholds
from tests.builders import CATALOG_YAML, account_event, payload

PLAN = "    currency: USD\n    billing_period: MONTHLY\n"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"kind": "low_balance", "amount": "10.50"}, "low_balance:10.5"),
        ({"kind": "low_balance", "amount": -50}, "low_balance:-50"),
        ({"kind": "low_balance", "amount": 0, "id": None}, "low_balance:0"),
        ({"kind": "spend", "percent": "80"}, "spend:80pct"),
        ({"kind": "spend", "percent": "80", "id": "warn"}, "warn"),
    ],
)
def test_a_threshold_has_a_name_of_its_own(fields: dict[str, Any], name: str) -> None:
    assert Threshold.model_validate(fields).name == name


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "low_balance"},
        {"kind": "low_balance", "amount": 1, "percent": 1},
        {"kind": "spend", "amount": 0},
        {"kind": "spend", "percent": 0},
        {"kind": "spend", "amount": 0.5},
        {"kind": "speed", "amount": 1},
        {"kind": "spend", "amount": 1, "id": "two words"},
        {"kind": "spend", "amount": 1, "direction": "up"},
    ],
)
def test_what_is_no_threshold(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Threshold.model_validate(fields)


def test_names_are_unique_and_there_are_not_too_many() -> None:
    read = TypeAdapter(Thresholds).validate_python
    one = {"kind": "spend", "amount": 1}
    with pytest.raises(ValidationError, match="two thresholds are 'spend:1'"):
        read([one, {"kind": "spend", "amount": "1.0"}])
    many = [{"kind": "spend", "amount": amount + 1} for amount in range(THRESHOLDS_MAX + 1)]
    assert len(read(many[:-1])) == THRESHOLDS_MAX
    with pytest.raises(ValidationError):
        read(many)


def test_a_plan_has_thresholds_and_a_change_of_them_sends_nothing_again() -> None:
    plain = load_catalog(CATALOG_YAML)
    text = CATALOG_YAML.replace(PLAN, PLAN + "    thresholds: [{kind: spend, amount: 0.5}]\n")
    catalog = load_catalog(text)
    assert [one.name for one in catalog.plans_by_id["starter"].thresholds] == ["spend:0.5"]
    assert catalog.fingerprint == plain.fingerprint
    with pytest.raises(CatalogError, match=r"plans\[0\].thresholds\[0\].amout.*did you mean .amount"):
        load_catalog(text.replace("amount: 0.5", "amout: 0.5"))


def test_an_account_sets_its_own() -> None:
    event = parse_account_event(payload(account_event("thresholds_set")), append_ms=0)
    assert isinstance(event, ThresholdsSet)
    assert [one.name for one in event.thresholds] == ["low_balance:10"]
    none = parse_account_event(payload(account_event("thresholds_set", thresholds=[])), append_ms=0)
    assert isinstance(none, ThresholdsSet)
    assert none.thresholds == ()
    bad = account_event("thresholds_set", thresholds=[{"kind": "spend"}])
    with pytest.raises(AccountEventError, match="must have an amount or a percent"):
        parse_account_event(payload(bad), append_ms=0)
