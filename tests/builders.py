"""Small builders of what tests talk about: meters, plans, catalogs, events, with defaults that make sense.

Each gives the real object, checked by its own schema; name only what the test is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import orjson
from pydantic import TypeAdapter

from schemas.catalog import Catalog
from schemas.meters import Meter
from schemas.plans import Plan
from schemas.prices import Price

CATALOG_YAML = """\
meters:
  - id: llm-tokens
    event_name: llm_tokens
    aggregation: {type: SUM, field: tokens}
    filters: [{key: model, values: [large, small]}]
    window: 1m
    allowed_lateness: 1h
  - id: api-calls
    event_name: api_call
    aggregation: {type: COUNT}
  - id: active-users
    event_name: llm_tokens
    aggregation: {type: COUNT_UNIQUE, field: user_id}
    window: 1h
  - id: latency
    event_name: api_call
    aggregation: {type: AVG, field: latency_ms}
    window: 5m
    on_missing: skip
  - id: stored-gb
    event_name: storage
    aggregation: {type: SUM, field: gb}
    window: 1d
    reset_usage: NEVER
plans:
  - id: starter
    currency: USD
    billing_period: MONTHLY
    charges:
      - meter: llm-tokens
        price:
          model: graduated
          tiers: [{up_to: 1000, unit_amount: "0.002"}, {up_to: null, unit_amount: "0.001"}]
      - meter: api-calls
        price: {model: per_unit, unit_amount: "0.0001"}
        free_units: 100
  - id: business
    currency: EUR
    billing_period: QUARTERLY
    timezone: Europe/Berlin
    charges:
      - price: {model: flat, amount: 49}
      - meter: llm-tokens
        price:
          model: volume
          tiers: [{up_to: 1e6, unit_amount: 0.001}, {up_to: null, unit_amount: 0.0005}]
      - meter: active-users
        price: {model: package, amount: 10, size: 25}
default_plan: starter
"""
"""Every aggregation, window rule and price model once, as an operator would write it."""

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

_PRICE: TypeAdapter[Price] = TypeAdapter(Price)
_numbers = count(1)


def meter(
    id: str = "llm-tokens",  # noqa: A002  # the field's own name
    *,
    event_name: str = "llm_tokens",
    type: str = "SUM",  # noqa: A002  # as above
    field: str | None = None,
    filters: dict[str, Sequence[Any]] | None = None,
    **more: Any,
) -> Meter:
    """A meter; SUM and AVG read "tokens", COUNT_UNIQUE reads "user_id", and `filters` is {key: values}."""
    default = {"SUM": "tokens", "AVG": "tokens", "COUNT_UNIQUE": "user_id"}.get(type)
    return Meter.model_validate(
        {
            "id": id,
            "event_name": event_name,
            "aggregation": {"type": type, "field": field or default},
            "filters": [{"key": key, "values": list(values)} for key, values in (filters or {}).items()],
            **more,
        }
    )


def price(model: str = "per_unit", **fields: Any) -> Price:
    """A price; a per-unit one costs 0.01 a unit; `tiers` are (up_to, unit_amount[, flat_amount]) tuples."""
    if model == "per_unit":
        fields.setdefault("unit_amount", "0.01")
    names = ("up_to", "unit_amount", "flat_amount")
    if "tiers" in fields:
        fields["tiers"] = [dict(zip(names, tier, strict=False)) for tier in fields["tiers"]]
    return _PRICE.validate_python({"model": model, **fields})


def plan(
    id: str = "starter",  # noqa: A002  # the field's own name
    *,
    charges: dict[str, Price] | None = None,
    free_units: Decimal | int = 0,
    currency: str = "USD",
    **more: Any,
) -> Plan:
    """A plan; `charges` is {meter id: price}, by default 0.01 per unit of "llm-tokens"."""
    prices = {"llm-tokens": price()} if charges is None else charges
    rows = [{"meter": name, "price": one, "free_units": free_units} for name, one in prices.items()]
    return Plan.model_validate({"id": id, "currency": currency, "charges": rows, **more})


def catalog(
    *meters: Meter, plans: Sequence[Plan] | None = None, default_plan: str | None = "starter"
) -> Catalog:
    """A catalog of these meters (default: one); a plan prices the first at 0.01 unless some are given."""
    chosen = meters or (meter(),)
    priced = [plan(charges={chosen[0].id: price()})] if plans is None else plans
    return Catalog.model_validate(
        {"meters": chosen, "plans": priced, "default_plan": default_plan if priced else None}
    )


def usage_event(
    properties: dict[str, Any] | None = None,
    *,
    at: datetime = NOON,
    event_name: str = "llm_tokens",
    external_customer_id: str = "cust_1",
    tenant_id: str = "acme",
    **more: Any,
) -> dict[str, Any]:
    """A usage event as a dict, with an id of its own; 100 tokens unless `properties` say otherwise."""
    return {
        "id": f"evt_{next(_numbers)}",
        "tenant_id": tenant_id,
        "event_name": event_name,
        "external_customer_id": external_customer_id,
        "timestamp": rfc3339(at),
        "properties": {"tokens": 100, "model": "large", "user_id": "u1"}
        if properties is None
        else properties,
        **more,
    }


def account_event(
    type: str = "credit_granted",  # noqa: A002  # the field's own name
    *,
    at: datetime = NOON,
    external_customer_id: str = "cust_1",
    tenant_id: str = "acme",
    **more: Any,
) -> dict[str, Any]:
    """An account event as a dict, with an id of its own and what its type needs (100 USD, plan "starter")."""
    money = {"amount": "100", "currency": "USD"}
    month = rfc3339(at.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    needs: dict[str, dict[str, Any]] = {
        "subscription_started": {"plan_id": "starter"},
        "subscription_changed": {"plan_id": "starter"},
        "credit_granted": money,
        "debit": money,
        "invoice_issued": {**money, "invoice_id": "inv_1", "period_start": month},
        "invoice_paid": {"invoice_id": "inv_1"},
        "invoice_voided": {"invoice_id": "inv_1"},
        "adjustment": {
            "meter_id": "llm-tokens",
            "period_start": month,
            "quantity": "-10",
            "reason": "outage",
        },
        "thresholds_set": {"currency": "USD", "thresholds": [{"kind": "low_balance", "amount": "10"}]},
    }
    return {
        "id": f"acc_{next(_numbers)}",
        "tenant_id": tenant_id,
        "external_customer_id": external_customer_id,
        "timestamp": rfc3339(at),
        "type": type,
        **needs.get(type, {}),
        **more,
    }


def payload(event: dict[str, Any]) -> bytes:
    """The event as a producer sends it."""
    return orjson.dumps(event)


def rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def at_ms(text: str) -> int:
    """Milliseconds since 1970 of an ISO 8601 time with a zone."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
