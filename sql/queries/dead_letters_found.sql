-- Dead letters of a reason ('' is all) and a time, the newest first.
SELECT
    reason, detail, topic, `partition`, `offset`, appended_at, length(payload) AS payload_bytes,
    (topic, `partition`, `offset`) IN (SELECT topic, `partition`, `offset` FROM dead_letter_replays) AS replayed
FROM dead_letters FINAL
WHERE (reason = {reason:String} OR {reason:String} = '')
  AND appended_at >= {since:DateTime64(3, 'UTC')}
  AND appended_at < {until:DateTime64(3, 'UTC')}
ORDER BY appended_at DESC, topic, `partition`, `offset`
LIMIT {limit:UInt64}
