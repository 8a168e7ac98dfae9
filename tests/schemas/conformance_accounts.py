"""What our ledger makes of a peer's test vector about balances, credits and invoices: see `conformance`.

Everything gets into the ledger as an account event or as metered usage, as it does in the stream.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np

from operators.account_events import apply
from operators.account_state import AccountState
from operators.balances import Wallet
from operators.ledger import Ledger
from schemas.accounts import parse_account_event
from tests.builders import account_event, at_ms, catalog, meter, payload, plan, price
from tests.schemas.conformance import Case, OutOfScope, refuse, total

GRANTED = datetime(2025, 1, 1, tzinfo=UTC)
NOW_MS = at_ms("2026-01-01T00:00:00Z")


class Account:
    """One customer whose tokens cost 1 USD each."""

    def __init__(self, *, default_plan: str | None = "starter", reset_usage: str = "BILLING_PERIOD") -> None:
        self.meter = meter(reset_usage=reset_usage)
        plans = [plan(charges={self.meter.id: price(unit_amount=1)})]
        terms = catalog(self.meter, plans=plans, default_plan=default_plan)
        self.ledger = Ledger(terms, AccountState("acme", "cust_1"))

    def send(self, type_: str, *, at: datetime = GRANTED, **fields: Any) -> None:
        event = parse_account_event(payload(account_event(type_, at=at, **fields)), append_ms=NOW_MS)
        assert apply(self.ledger, event, NOW_MS)

    def use(self, quantity: str | int, at: int = NOW_MS) -> None:
        tokens = np.empty(0, np.uint64)
        self.ledger.add_usage(self.meter, at, 1, Decimal(quantity), tokens, is_settled=True)

    def wallet(self, currency: str = "USD") -> Wallet:
        (found,) = (one for one in self.ledger.wallets(NOW_MS) if one.currency == currency)
        return found


def wallet_balance(case: Case) -> Case:
    refuse(case, "total_unpaid_usage_charges")
    account = Account()
    account.send("credit_granted", amount=case["balance"])
    if used := Decimal(case["current_usage_cost"]):
        if case["allowed_price_types"] != ["ALL"]:
            raise OutOfScope("a wallet that pays only some charges")
        account.use(str(used))
    unpaid = case.get(
        "unpaid_invoices", [{"amount_remaining": case.get("total_unpaid_amount"), "currency": "usd"}]
    )
    for number, invoice in enumerate(unpaid):
        name, amount = f"inv_{number}", invoice["amount_remaining"]
        account.send("invoice_issued", invoice_id=name, amount=amount, currency=invoice["currency"])
    return {"real_time_balance": account.wallet().available}


def wallet_ongoing(case: Case) -> Case:
    account = Account()
    account.send("credit_granted", amount=str(Decimal(case["balance_cents"]) / 100))
    account.use(str(Decimal(case["usage_cents"]) / 100))
    wallet = account.wallet()
    return {
        "ongoing_cents": wallet.available * 100,
        "credits": wallet.available,
        "usage_credits": wallet.usage,
    }


def wallet_topup(case: Case) -> Case:
    account = Account()
    for amount in (case["credit_balance"], case["credits_to_add"]):
        account.send("credit_granted", amount=amount)
    return {"credit_balance": account.wallet().balance, "balance": account.wallet().balance}


def wallet_debit_simple(case: Case) -> Case:
    account = Account()
    account.send("credit_granted", amount=case["credit_balance"])
    account.send("debit", amount=case["debit"])
    return {"credit_balance": account.wallet().balance}


def wallet_debit(case: Case) -> Case:
    account = Account()
    for credit in case["credits"]:
        optional = {"priority": credit["priority"]} if credit["priority"] is not None else {}
        account.send(
            "credit_granted",
            id=credit["id"],
            amount=credit["amount"],
            expires_at=credit["expiry"],
            **optional,
        )
    account.send("debit", at=datetime.fromisoformat(case["at"]), amount=case["debit"])
    left = {grant.id: grant.remaining for grant in account.ledger.state.grants}
    remaining = {credit["id"]: left.get(credit["id"], Decimal(0)) for credit in case["credits"]}
    return {"remaining": remaining, "total_remaining": account.wallet().balance}


def credits_available(case: Case) -> Case:
    account = Account()
    before = Decimal(case["credit_balance_before"])
    account.send("credit_granted" if before > 0 else "debit", amount=str(abs(before)))
    account.send("credit_granted", id="new", amount=case["credit_amount"])
    return {
        "credits_available": total(one.remaining for one in account.ledger.state.grants if one.id == "new")
    }


def reset_usage_never(case: Case) -> Case:
    if case["aggregation"] != "SUM":
        raise OutOfScope(f"aggregation {case['aggregation']}")
    account = Account(reset_usage="NEVER")
    account.use(case["historic"], at_ms("2025-12-05T00:00:00Z"))
    account.use(case["current"])
    current = max(account.ledger.usages.values(), key=lambda usage: usage.start_ms)
    return {"value": account.ledger.quantity(current)}


def line_item_usage(case: Case) -> Case:
    account = Account(default_plan=None)
    account.send("subscription_started", at=datetime.fromisoformat(case["effective_start"]))
    account.send("subscription_ended", at=datetime.fromisoformat(case["effective_end"]))
    for event in case["events"]:
        account.use(event["qty"], at_ms(event["timestamp"]))
    return {"usage": total(account.ledger.quantity(usage) for usage in account.ledger.usages.values())}
