"""The five meters of the benchmarks, in 1-minute windows, and one plan that prices all but the average."""

from __future__ import annotations

from decimal import Decimal

TENANT = "acme"
CURRENCY = "USD"
PLAN = "pay-as-you-go"
CREDIT = Decimal(1000)
"""What every customer is granted before any usage."""

API, LLM, STORAGE = "api_request", "llm_tokens", "storage"
NAMES = (API, LLM, STORAGE)
MODELS, REGIONS = ("gpt-l", "gpt-m", "gpt-s"), ("eu-1", "us-1", "ap-1")
SUMMED_MODELS, SUMMED_REGIONS = MODELS[:2], REGIONS[:2]
AMOUNT_METERS = ("llm-tokens", "api-latency", "storage")
"""Meters that add up values; COUNT and COUNT_UNIQUE have no total."""
PRICES = {
    "api-requests": Decimal("0.002"),
    "llm-tokens": Decimal("0.00002"),
    "active-users": Decimal("0.10"),
    "storage": Decimal("0.05"),
}


def catalog_yaml() -> str:
    """The catalog: COUNT, SUM with two filters, AVG, COUNT_UNIQUE, SUM."""
    charges = "".join(
        f'      - {{meter: {meter}, price: {{model: per_unit, unit_amount: "{price}"}}}}\n'
        for meter, price in PRICES.items()
    )
    return f"""\
meters:
  - {{id: api-requests, event_name: {API}, aggregation: {{type: COUNT}}, window: 1m, allowed_lateness: 1h}}
  - id: llm-tokens
    event_name: {LLM}
    aggregation: {{type: SUM, field: tokens}}
    filters:
      - {{key: model, values: [{", ".join(SUMMED_MODELS)}]}}
      - {{key: region, values: [{", ".join(SUMMED_REGIONS)}]}}
    window: 1m
    allowed_lateness: 1h
  - id: api-latency
    event_name: {API}
    aggregation: {{type: AVG, field: latency_ms}}
    window: 1m
    allowed_lateness: 1h
  - id: active-users
    event_name: {LLM}
    aggregation: {{type: COUNT_UNIQUE, field: user_id}}
    window: 1m
    allowed_lateness: 1h
  - id: storage
    event_name: {STORAGE}
    aggregation: {{type: SUM, field: gb_hours}}
    window: 1m
    allowed_lateness: 1h
plans:
  - id: {PLAN}
    currency: {CURRENCY}
    billing_period: MONTHLY
    charges:
{charges}default_plan: {PLAN}
"""
