"""The catalog of the demo: all four aggregations, two filters, three lengths of windows, one plan."""

from __future__ import annotations

from collections.abc import Sequence

PLAN = "pay-as-you-go"
PRICES = {"api-requests": "0.002", "llm-tokens": "0.00002", "active-users": "0.10", "storage": "0.05"}
CURRENCY = "USD"
MODELS = ("large", "medium", "small")
REGIONS = ("eu", "us", "ap")
SUMMED_MODELS, SUMMED_REGIONS = MODELS[:2], REGIONS[:2]


def workload_catalog(models: Sequence[str] = SUMMED_MODELS, regions: Sequence[str] = SUMMED_REGIONS) -> str:
    """The catalog as YAML; these models and regions are the ones whose tokens are summed."""
    charges = "".join(
        f'      - {{meter: {meter}, price: {{model: per_unit, unit_amount: "{price}"}}}}\n'
        for meter, price in PRICES.items()
    )
    return f"""\
meters:
  - id: api-requests
    event_name: api_request
    aggregation: {{type: COUNT}}
    window: 1m
    allowed_lateness: 1h
  - id: llm-tokens
    event_name: llm_tokens
    aggregation: {{type: SUM, field: tokens}}
    filters:
      - {{key: model, values: [{", ".join(models)}]}}
      - {{key: region, values: [{", ".join(regions)}]}}
    window: 1m
    allowed_lateness: 1h
  - id: api-latency
    event_name: api_request
    aggregation: {{type: AVG, field: latency_ms}}
    on_missing: skip
    window: 15m
    allowed_lateness: 1h
  - id: active-users
    event_name: llm_tokens
    aggregation: {{type: COUNT_UNIQUE, field: user_id}}
    window: 1h
    allowed_lateness: 1h
  - id: storage
    event_name: storage
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
