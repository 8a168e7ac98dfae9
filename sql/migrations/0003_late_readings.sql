-- Readings that came after their window and its allowed lateness: billed, and repaired into usage_windows later.
-- The row is a function of its Kafka record and the meter, so a replay writes the same row again.
CREATE TABLE IF NOT EXISTS late_readings
(
    tenant_id LowCardinality(String),
    meter_id LowCardinality(String),
    external_customer_id String CODEC(ZSTD(1)),
    window_start DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    window_s UInt32 CODEC(T64, ZSTD(1)),
    id String CODEC(ZSTD(1)),
    timestamp DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    ingested_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    value Decimal(38, 12) CODEC(ZSTD(1)),
    token UInt64 CODEC(ZSTD(1)),
    `partition` Int32 CODEC(T64, ZSTD(1)),
    `offset` Int64 CODEC(Delta(8), ZSTD(1)),
    INDEX by_ingested_at ingested_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(window_start)
ORDER BY (tenant_id, meter_id, external_customer_id, window_start, id, `partition`, `offset`)
TTL window_start + INTERVAL 400 DAY DELETE
SETTINGS ttl_only_drop_parts = 1;
