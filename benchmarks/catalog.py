"""The benchmarks' catalog: the demo's in 1-minute windows, with names that make all payloads equally long."""

from __future__ import annotations

import re
from decimal import Decimal

from dataflows import workload_catalog as demo

TENANT = "acme"
CURRENCY = demo.CURRENCY
CREDIT = Decimal(1000)
"""What every customer is granted before any usage."""

API, LLM, STORAGE = "api_request", "llm_tokens", "storage"
NAMES = (API, LLM, STORAGE)
MODELS, REGIONS = ("gpt-l", "gpt-m", "gpt-s"), ("eu-1", "us-1", "ap-1")
SUMMED_MODELS, SUMMED_REGIONS = MODELS[:2], REGIONS[:2]
AMOUNT_METERS = ("llm-tokens", "api-latency", "storage")
"""Meters that add up values; COUNT and COUNT_UNIQUE have no total."""
PRICES = {meter: Decimal(price) for meter, price in demo.PRICES.items()}


def catalog_yaml() -> str:
    """The catalog: COUNT, SUM with two filters, AVG, COUNT_UNIQUE, SUM; all but the average are priced."""
    return re.sub("window: .*", "window: 1m", demo.workload_catalog(SUMMED_MODELS, SUMMED_REGIONS))
