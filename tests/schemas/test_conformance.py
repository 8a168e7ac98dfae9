"""The test vectors of our peers (Flexprice, Lago, OpenMeter): which we pass, which not, and why.

The vectors are in `tests/vectors`. Every case of every kind is accounted for: it passes, or differs on
purpose (`DIFFERENT`, with our answer), or is out of scope. `KINDS` has the counts: none goes missing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.schemas import conformance as ours
from tests.schemas import conformance_accounts as accounts
from tests.schemas import conformance_alerts as alerts
from tests.schemas import conformance_meters as meters
from tests.schemas.conformance import Case, OutOfScope, plain

VECTORS = Path(__file__).parents[1] / "vectors"


@dataclass(frozen=True)
class Kind:
    """How many cases of a kind pass, differ, and are out of scope; `why` says what is out."""

    passed: int = 0
    different: int = 0
    out: int = 0
    why: str = ""
    run: Callable[[Case], Case] | None = None


NO_MODEL = "we have no such price model, discount or commitment"
NO_AGGREGATION = "MAX, MIN, LATEST, SUM_WITH_MULTIPLIER and WEIGHTED_SUM are not metered"
IDENTITY = (
    "an event's identity is (tenant_id, id), first one wins: neither source nor timestamp is part of it"
)

KINDS: dict[str, Kind] = {
    # Prices
    "flexprice price_cost": Kind(29, 0, 1, "packages billed when full", ours.price_cost),
    "flexprice bucketed_cost": Kind(7, 0, 0, "", ours.bucketed_cost),
    "flexprice wallet_balance_with_entitlement": Kind(3, 0, 0, "", ours.entitled_usage),
    "flexprice entitlement_windowed_overage": Kind(
        out=2, why="free units are per billing period, not per window"
    ),
    "flexprice commitment": Kind(out=3, why=NO_MODEL),
    "peers charge.standard": Kind(2, 0, 0, "", ours.standard_charge),
    "peers charge.package": Kind(2, 0, 0, "", ours.package_charge),
    "peers charge.graduated": Kind(4, 1, 0, "", partial(ours.ranges_charge, "graduated")),
    "peers charge.volume": Kind(4, 0, 1, "prorated units", partial(ours.ranges_charge, "volume")),
    "peers charge.percentage": Kind(out=5, why=NO_MODEL),
    "peers price.unit": Kind(1, 0, 2, "maximum spend, discounts", ours.openmeter_unit),
    "peers price.package": Kind(2, 0, 2, "minimum and maximum spend", ours.openmeter_package),
    "peers price.graduated": Kind(5, 1, 0, "", partial(ours.openmeter_tiers, "graduated")),
    "peers price.volume": Kind(5, 0, 0, "", partial(ours.openmeter_tiers, "volume")),
    # Money
    "flexprice currency_round": Kind(11, 0, 0, "", ours.currency_round),
    "flexprice charge_total": Kind(0, 1, 0, "", ours.charge_total),
    "peers store_limit.lago": Kind(1, 0, 0, "", ours.exact_sum),
    "peers store_limit.openmeter": Kind(2, 0, 0, "", ours.exact_sum),
    # Calendar
    "flexprice next_billing_date": Kind(
        3, 1, 1, "a subscription's end cuts a bill, not a period", ours.next_billing_date
    ),
    "flexprice month_bucket_starts": Kind(1, 0, 0, "", ours.month_starts),
    "flexprice bucket_starts": Kind(1, 0, 0, "", ours.bucket_starts),
    "peers window.tumbling": Kind(4, 0, 0, "", ours.tumbling),
    "peers window.range": Kind(out=1, why=NO_AGGREGATION),
    # Meters
    "flexprice meter_filter": Kind(11, 2, 0, "", meters.meter_filter),
    "flexprice extract_quantity": Kind(6, 4, 2, NO_AGGREGATION, meters.extract_quantity),
    "flexprice usage": Kind(9, 0, 6, NO_AGGREGATION, meters.usage),
    "flexprice windowed_usage": Kind(1, 0, 0, "", meters.windowed_usage),
    "flexprice bucketed_usage": Kind(out=1, why=NO_AGGREGATION),
    "flexprice weighted_sum": Kind(out=2, why=NO_AGGREGATION),
    "peers agg.meter": Kind(3, 1, 3, NO_AGGREGATION, meters.openmeter_aggregation),
    "peers agg.basic": Kind(1, 0, 0, "of its answers max, min and last", meters.lago_aggregation),
    "peers agg.weighted_sum": Kind(out=3, why=NO_AGGREGATION),
    "peers agg.latest": Kind(out=1, why=NO_AGGREGATION),
    "peers agg.unique_count": Kind(out=1, why="a value can't be removed from COUNT_UNIQUE again"),
    "peers agg.group_by": Kind(out=1, why="usage is not kept by property: an analyst groups raw events"),
    "peers event.parse": Kind(7, 0, 0, "", meters.event_parse),
    "peers dedupe.key": Kind(out=1, why=IDENTITY),
    "peers dedupe.count": Kind(out=1, why=IDENTITY),
    # Accounts
    "flexprice line_item_usage": Kind(3, 0, 0, "", accounts.line_item_usage),
    "flexprice reset_usage_never": Kind(1, 0, 1, NO_AGGREGATION, accounts.reset_usage_never),
    "flexprice unpaid_invoice_totals": Kind(out=1, why="invoices have one amount, not lines"),
    "flexprice wallet_balance": Kind(
        3, 0, 3, "wallets that pay only some kinds of charges", accounts.wallet_balance
    ),
    "flexprice wallet_topup": Kind(1, 0, 0, "", accounts.wallet_topup),
    "flexprice wallet_debit_simple": Kind(1, 1, 0, "", accounts.wallet_debit_simple),
    "flexprice wallet_debit": Kind(1, 1, 0, "", accounts.wallet_debit),
    "flexprice credits_available_on_credit": Kind(2, 0, 0, "", accounts.credits_available),
    "flexprice auto_topup": Kind(out=2, why="whoever listens to wallet alerts tops up"),
    "peers wallet.ongoing": Kind(1, 0, 0, "", accounts.wallet_ongoing),
    "peers wallet.allocation": Kind(out=3, why="one wallet per customer and currency: nothing to allocate"),
    # Alerts
    "flexprice alert_state": Kind(6, 0, 0, "", alerts.alert_state),
    "peers alert.thresholds": Kind(6, 1, 0, "", alerts.crossings),
    "peers alert.balance_threshold": Kind(6, 0, 0, "", alerts.extreme),
}

REJECTED = "a value that can't be read is a dead letter with its reason, never a silent 0"
NOTHING_COSTS_NOTHING = "quantity 0 costs 0: a flat amount is due once its tier is entered"
PRINTED = "they print floats as Go does; ours is the plain text 1000000 or 0.00001, see schemas.meters"
DIFFERENT: dict[str, tuple[Case, str]] = {
    "flexprice:49": ({"total": "20.66"}, "charges are rounded, then added, so that a bill's lines add up"),
    "flexprice:55": ({"match": False}, PRINTED),
    "flexprice:61": ({"match": False}, PRINTED),
    "flexprice:63": ({"qty": "value_not_numeric"}, REJECTED),
    "flexprice:69": ({"qty": "value_not_numeric"}, REJECTED),
    "flexprice:71": ({"qty": "value_missing"}, REJECTED),
    "flexprice:74": ({"qty": "refused in the catalog"}, "a meter without its field is a catalog error"),
    "flexprice:111": (
        {"credit_balance": "-50"},
        "a debit that happened is not refused: the balance is negative",
    ),
    "flexprice:112": (
        {"remaining": {"old": "100", "new": "40"}, "total_remaining": "40"},
        "a credit that has expired is no balance, whether or not a job has run",
    ),
    "flexprice:128": ({"next": "2024-04-14T12:00:00Z"}, "a period ends at the anchor's time of day as well"),
    "peers:9": ({"amount": "0", "tiers": []}, NOTHING_COSTS_NOTHING),
    "peers:31": (
        {"crossed": ["200"]},
        "a threshold does not recur: each level that matters is one of its own",
    ),
    "peers:39": ({"value": "61.728394506173"}, "quantities have 12 decimals, rounded half to even"),
    "peers:66": ({"amount": "0"}, NOTHING_COSTS_NOTHING),
}


def read_vectors() -> dict[str, Case]:
    """Cases by "file:line"."""
    return {
        f"{path.stem}:{number}": json.loads(line)
        for path in sorted(VECTORS.glob("*.jsonl"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
    }


CASES = read_vectors()
RUNNABLE = [name for name, case in CASES.items() if KINDS[f"{name.split(':')[0]} {case['kind']}"].run]


def answer(name: str) -> Case:
    """Ours, in the keys that the vector has."""
    case = CASES[name]
    run = KINDS[f"{name.split(':', maxsplit=1)[0]} {case['kind']}"].run
    assert run is not None
    result: dict[str, Any] = plain(run(case["input"]))
    return {key: value for key, value in result.items() if key in case["expected"]}


def expected(name: str) -> Case:
    result: dict[str, Any] = plain(CASES[name]["expected"])
    if "tiers" in result:  # they list the first tier even when nothing is in it
        result["tiers"] = [tier for tier in result["tiers"] if tier != ["0", "0"]]
    return result


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_vector_of_a_kind_in_scope_passes_or_differs_on_purpose(name: str) -> None:
    try:
        result = answer(name)
    except OutOfScope as out:
        pytest.skip(f"out of scope: {out}")
    assert result, "no answer to compare"
    theirs = {key: value for key, value in expected(name).items() if key in result}
    if name in DIFFERENT:
        assert result == DIFFERENT[name][0]
        assert result != theirs, "no longer different: take it out of DIFFERENT"
    else:
        assert result == theirs, CASES[name]["note"]


def test_every_vector_is_accounted_for() -> None:
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for name, case in CASES.items():
        kind = f"{name.split(':')[0]} {case['kind']}"
        outcome = "out"
        if KINDS[kind].run:
            outcome = "different" if name in DIFFERENT else "passed"
            try:
                answer(name)
            except OutOfScope:
                outcome = "out"
        counts[kind][outcome] += 1
    table = {
        name: {"passed": kind.passed, "different": kind.different, "out": kind.out}
        for name, kind in KINDS.items()
    }
    assert {
        name: {key: count[key] for key in ("passed", "different", "out")} for name, count in counts.items()
    } == table
    assert DIFFERENT.keys() <= CASES.keys()
    assert all(kind.why for kind in KINDS.values() if kind.out), "every exclusion has a reason"
