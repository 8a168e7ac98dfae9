-- Raw usage events, one row an accepted event. Producers of the columns: schemas.arrow.USAGE_EVENTS.
-- The whole row is a function of its Kafka record (ingested_at is the record's append time), so a replay
-- writes the same row again and the engine keeps one. Read with FINAL for exact counts.
CREATE TABLE IF NOT EXISTS usage_events
(
    tenant_id LowCardinality(String),
    event_name LowCardinality(String),
    external_customer_id String CODEC(ZSTD(1)),
    customer_id String CODEC(ZSTD(1)),
    id String CODEC(ZSTD(1)),
    timestamp DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    source LowCardinality(String),
    properties String CODEC(ZSTD(3)),
    ingested_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `partition` Int32 CODEC(T64, ZSTD(1)),
    `offset` Int64 CODEC(Delta(8), ZSTD(1)),
    INDEX by_id id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_ingested_at ingested_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(ingested_at)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (tenant_id, event_name, external_customer_id, timestamp, id)
TTL toDateTime(timestamp) + INTERVAL 400 DAY DELETE
SETTINGS ttl_only_drop_parts = 1;
