-- The next dead letters of a partition that are records, in their order; again = 1 has the replayed ones too.
SELECT reason, detail, topic, `partition`, `offset`, appended_at, key, payload, headers
FROM dead_letters FINAL
WHERE topic = {topic:String}
  AND `partition` = {partition:Int32}
  AND `offset` > {after:Int64}
  AND `offset` <= {last_offset:Int64}
  AND reason != 'store_rejected'
  AND (reason = {reason:String} OR {reason:String} = '')
  AND appended_at >= {since:DateTime64(3, 'UTC')}
  AND appended_at < {until:DateTime64(3, 'UTC')}
  AND (
      {again:UInt8} = 1
      OR (topic, `partition`, `offset`) NOT IN (SELECT topic, `partition`, `offset` FROM dead_letter_replays)
  )
ORDER BY `offset`
LIMIT {limit:UInt64}
