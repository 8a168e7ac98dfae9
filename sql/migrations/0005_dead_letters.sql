-- Records that are not metered, with the reason and the original bytes; `meterline` can replay them.
-- The key is the record's place in Kafka, so a replay writes the same row again.
CREATE TABLE IF NOT EXISTS dead_letters
(
    reason LowCardinality(String),
    detail String CODEC(ZSTD(1)),
    topic LowCardinality(String),
    `partition` Int32 CODEC(T64, ZSTD(1)),
    `offset` Int64 CODEC(Delta(8), ZSTD(1)),
    appended_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    key String CODEC(ZSTD(1)),
    payload String CODEC(ZSTD(3)),
    headers String CODEC(ZSTD(1)),
    INDEX by_reason reason TYPE set(32) GRANULARITY 1,
    INDEX by_appended_at appended_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (topic, `partition`, `offset`)
TTL toDateTime(appended_at) + INTERVAL 90 DAY DELETE
SETTINGS ttl_only_drop_parts = 1;
