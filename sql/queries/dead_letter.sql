-- One dead letter by its place in Kafka, and where each copy of it went that is still marked.
SELECT
    reason, detail, topic, `partition`, `offset`, appended_at, key, payload, headers,
    (
        SELECT groupArray((toString(replayed_at), copy_partition, copy_offset))
        FROM dead_letter_replays FINAL
        WHERE topic = {topic:String} AND `partition` = {partition:Int32} AND `offset` = {offset:Int64}
    ) AS replays
FROM dead_letters FINAL
WHERE topic = {topic:String} AND `partition` = {partition:Int32} AND `offset` = {offset:Int64}
