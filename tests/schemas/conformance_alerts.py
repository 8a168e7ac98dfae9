"""What our thresholds make of a peer's test vector about wallet alerts: see `conformance`."""

from __future__ import annotations

from decimal import Decimal

from operators.account_state import AccountState, Level, Terms
from operators.ledger import Ledger
from operators.thresholds import is_beyond, judge, threshold_amount
from schemas.thresholds import ThresholdKind
from schemas.wallets import WalletRow
from tests.builders import catalog
from tests.schemas.conformance import ZERO, Case

IN_ALARM = {"critical": "in_alarm"}
"""Flexprice's names of states, where they are not those of the settings."""


def alert_state(case: Case) -> Case:
    """Flexprice names the gravest level that a balance is beyond; settings come gravest first."""
    level = Level(available=Decimal(case["balance"]), usage=Decimal(case["balance"]))
    for name, setting in case["settings"].items():
        kind = ThresholdKind.SPEND if setting["condition"] == "above" else ThresholdKind.LOW_BALANCE
        if is_beyond(Terms(name, kind, Decimal(setting["threshold"]), None), level):
            return {"state": IN_ALARM.get(name, name)}
    return {"state": "ok"}


def crossings(case: Case) -> Case:
    """Lago names what is crossed from one value to the next; we also tell when a balance recovers."""
    rises = case["direction"] == "increasing"
    kind = ThresholdKind.SPEND if rises else ThresholdKind.LOW_BALANCE
    ledger = Ledger(catalog(), AccountState("acme", "cust_1"))
    levels = [Terms(level, kind, Decimal(level), None) for level in case["thresholds"]]
    ledger.state.thresholds["USD"] = levels
    for value in (Decimal(case["previous"]), Decimal(case["current"])):
        available, usage = (ZERO, value) if rises else (value, ZERO)
        row = WalletRow("acme", "cust_1", "USD", ZERO, ZERO, usage, available, version=1, as_of_ms=0)
        alerts = judge(ledger, [row], now_ms=0)
    told = [alert.threshold_id for alert in alerts if (alert.direction == "up") == rises]
    return {"crossed": sorted(told, key=Decimal)}


def extreme(case: Case) -> Case:
    """OpenMeter names the furthest that is crossed: the highest usage, the lowest balance; we tell all."""
    level = Level(Decimal(case["balance"]), Decimal(case["usage"]), Decimal(case.get("grants", "0")))
    beyond: dict[str, dict[Decimal, list[str]]] = {"usage": {}, "balance": {}}
    for name, value in case["thresholds"]:
        of, measure = name.split("_")
        kind = ThresholdKind.SPEND if of == "usage" else ThresholdKind.LOW_BALANCE
        number = Decimal(value)
        terms = Terms(name, kind, *((number, None) if measure == "value" else (None, number)))
        amount = threshold_amount(terms, level)
        if amount is not None and is_beyond(terms, level):
            beyond[of][amount] = [name, value]
    usage, balance = beyond["usage"], beyond["balance"]
    return {
        "usage": usage[max(usage)] if usage else None,
        "balance": balance[min(balance)] if balance else None,
    }
