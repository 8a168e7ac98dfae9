-- Dead letters that `meterline dead-letters replay` has sent again, and where Kafka has the copy.
-- The key is the dead letter's; the copy that was sent last is the one that is kept. Rows outlive their dead
-- letter, which is as old as its record, so that nothing is sent again because its mark has gone.
CREATE TABLE IF NOT EXISTS dead_letter_replays
(
    topic LowCardinality(String),
    `partition` Int32 CODEC(T64, ZSTD(1)),
    `offset` Int64 CODEC(Delta(8), ZSTD(1)),
    replayed_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    copy_partition Int32 CODEC(T64, ZSTD(1)),
    copy_offset Int64 CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplacingMergeTree(replayed_at)
PARTITION BY toYYYYMM(replayed_at)
ORDER BY (topic, `partition`, `offset`)
TTL toDateTime(replayed_at) + INTERVAL 120 DAY DELETE
SETTINGS ttl_only_drop_parts = 1;
