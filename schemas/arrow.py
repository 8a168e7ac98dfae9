"""Columns of every batch that leaves the stream: one Arrow schema per ClickHouse table.

A sink inserts a `RecordBatch` of the schema named like its table, column by column, by name.
Timestamps are UTC; quantities and money are decimals; nothing here is a float.
"""

from __future__ import annotations

import pyarrow as pa

QUANTITY = pa.decimal128(38, 12)
"""A quantity or an amount of money: 26 digits before the point, 12 behind it."""

AMOUNT = pa.decimal256(76, 24)
"""An unrounded amount: a quantity times a unit price, both of 12 decimals, is exact in it."""

TIMESTAMP_MS = pa.timestamp("ms", "UTC")
TIMESTAMP_S = pa.timestamp("s", "UTC")
NAME = pa.dictionary(pa.int32(), pa.string())
"""A string with few distinct values in a batch."""

USAGE_EVENTS = pa.schema(
    [
        pa.field("tenant_id", NAME, nullable=False),
        pa.field("event_name", NAME, nullable=False),
        pa.field("external_customer_id", pa.string(), nullable=False),  # the account: else customer_id
        pa.field("customer_id", pa.string(), nullable=False),  # '' where the event has none
        pa.field("id", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP_MS, nullable=False),
        pa.field("source", NAME, nullable=False),  # '' where the event has none
        pa.field("properties", pa.string(), nullable=False),  # the JSON object's own text
        pa.field("ingested_at", TIMESTAMP_MS, nullable=False),  # the record's append timestamp
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
    ]
)

USAGE_WINDOWS = pa.schema(
    [
        pa.field("tenant_id", pa.string(), nullable=False),
        pa.field("meter_id", pa.string(), nullable=False),
        pa.field("external_customer_id", pa.string(), nullable=False),
        pa.field("window_start", TIMESTAMP_S, nullable=False),
        pa.field("window_s", pa.uint32(), nullable=False),
        pa.field("events", pa.uint64(), nullable=False),
        pa.field("total", QUANTITY, nullable=False),
        pa.field("uniques", pa.binary(), nullable=False),  # state of uniqCombined64(String)
        pa.field("version", pa.uint64(), nullable=False),
    ]
)

LATE_READINGS = pa.schema(
    [
        pa.field("tenant_id", pa.string(), nullable=False),
        pa.field("meter_id", pa.string(), nullable=False),
        pa.field("external_customer_id", pa.string(), nullable=False),
        pa.field("window_start", TIMESTAMP_S, nullable=False),
        pa.field("window_s", pa.uint32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP_MS, nullable=False),
        pa.field("ingested_at", TIMESTAMP_MS, nullable=False),
        pa.field("value", QUANTITY, nullable=False),
        pa.field("token", pa.uint64(), nullable=False),  # hash of a COUNT_UNIQUE value, else 0
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
    ]
)

USAGE_CHARGES = pa.schema(
    [
        pa.field("tenant_id", pa.string(), nullable=False),
        pa.field("external_customer_id", pa.string(), nullable=False),
        pa.field("period_start", TIMESTAMP_S, nullable=False),
        pa.field("period_end", TIMESTAMP_S, nullable=False),
        pa.field("meter_id", pa.string(), nullable=False),
        pa.field("plan_id", pa.string(), nullable=False),
        pa.field("currency", pa.string(), nullable=False),
        pa.field("events", pa.uint64(), nullable=False),
        pa.field("quantity", QUANTITY, nullable=False),
        pa.field("amount_unrounded", AMOUNT, nullable=False),
        pa.field("amount", QUANTITY, nullable=False),
        pa.field("tiers", pa.string(), nullable=False),  # JSON list, the breakdown of the price
        pa.field("version", pa.uint64(), nullable=False),
    ]
)

DEAD_LETTERS = pa.schema(
    [
        pa.field("reason", pa.string(), nullable=False),  # a code of schemas.events.Reason
        pa.field("detail", pa.string(), nullable=False),  # one sentence: field, value, rule
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("appended_at", TIMESTAMP_MS, nullable=False),
        pa.field("key", pa.binary(), nullable=False),
        pa.field("payload", pa.binary(), nullable=False),  # the original bytes
        pa.field("headers", pa.string(), nullable=False),  # JSON list of [name, base64 value]
    ]
)
