-- What a customer owes for a meter (or a plan's fee) in a billing period, sent again whenever it has changed.
-- version as in usage_windows. Kept for ever: it is what invoices are made of.
CREATE TABLE IF NOT EXISTS usage_charges
(
    tenant_id LowCardinality(String),
    external_customer_id String CODEC(ZSTD(1)),
    period_start DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    period_end DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    meter_id LowCardinality(String),
    plan_id LowCardinality(String),
    currency LowCardinality(String),
    events UInt64 CODEC(T64, ZSTD(1)),
    quantity Decimal(38, 12) CODEC(ZSTD(1)),
    amount_unrounded Decimal(76, 24) CODEC(ZSTD(1)),
    amount Decimal(38, 12) CODEC(ZSTD(1)),
    tiers String CODEC(ZSTD(3)),
    version UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(period_start)
ORDER BY (tenant_id, external_customer_id, period_start, meter_id, plan_id);
