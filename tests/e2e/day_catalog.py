"""The plans of tests/e2e/day.py: all five price models, in four currencies and time zones, and thresholds.

Yen and euro have thresholds of one plan each, dinar those that a customer sets: steady, as the oracle calls
it (tests/oracle_thresholds.py). Nobody ever reaches `never` and `never-low`.
"""

from __future__ import annotations

CATALOG = """
meters:
  - id: tokens
    event_name: llm_tokens
    aggregation: {type: SUM, field: tokens}
    filters: [{key: model, values: [large, small]}]
  - {id: calls, event_name: api_call, aggregation: {type: COUNT}, window: 5m}
  - {id: users, event_name: llm_tokens, aggregation: {type: COUNT_UNIQUE, field: user_id}, window: 1h}
  - id: latency
    event_name: api_call
    aggregation: {type: AVG, field: latency_ms}
    window: 15m
    on_missing: skip
  - id: stored-gb
    event_name: storage
    aggregation: {type: SUM, field: gb}
    window: 1d
    reset_usage: NEVER
plans:
  - id: free
    currency: USD
    thresholds:
      - {id: quarter-used, kind: low_balance, percent: 75}
      - {id: worth-a-bill, kind: spend, amount: 1}
    charges:
      - {meter: tokens, price: {model: per_unit, unit_amount: "0.00003"}, free_units: 5000}
      - {meter: stored-gb, price: {model: per_unit, unit_amount: "0.23"}}
  - id: starter
    currency: USD
    billing_period: DAILY
    charges:
      - {price: {model: flat, amount: "4.99"}}
      - meter: tokens
        free_units: 1000
        price:
          model: graduated
          tiers:
            - {up_to: 10000, unit_amount: "0.002", flat_amount: 1}
            - {up_to: 50000, unit_amount: "0.0015"}
            - {up_to: null, unit_amount: "0.001", flat_amount: "0.5"}
      - {meter: calls, price: {model: package, amount: "0.75", size: 25}}
      - {meter: stored-gb, price: {model: per_unit, unit_amount: "0.11"}}
  - id: business
    currency: EUR
    billing_period: DAILY
    timezone: Europe/Berlin
    thresholds:
      - {id: tenth-used, kind: spend, percent: 10}
      - {id: spent, kind: low_balance, amount: 0}
    charges:
      - {price: {model: flat, amount: 49}}
      - meter: tokens
        price:
          model: volume
          tiers: [{up_to: 40000, unit_amount: "0.0011", flat_amount: 3}, {up_to: null, unit_amount: "0.0007"}]
      - {meter: users, price: {model: package, amount: 10, size: 7}}
      - {meter: latency, price: {model: flat, amount: "0.99"}}
  - id: yen
    currency: JPY
    billing_period: WEEKLY
    timezone: Asia/Tokyo
    thresholds:
      - {kind: spend, amount: 1000}
      - {kind: low_balance, percent: 80}
      - {id: never, kind: spend, amount: 1000000000}
      - {id: never-low, kind: low_balance, amount: -1000000000}
    charges:
      - {meter: tokens, price: {model: per_unit, unit_amount: "0.0305"}}
      - {meter: latency, price: {model: per_unit, unit_amount: "1.7"}}
  - id: dinar
    currency: BHD
    billing_period: MONTHLY
    timezone: Asia/Bahrain
    charges:
      - {price: {model: flat, amount: "12.5"}}
      - meter: calls
        price:
          model: volume
          tiers: [{up_to: 100, unit_amount: "0.0125"}, {up_to: null, unit_amount: "0.0101"}]
default_plan: free
"""
