-- Where the dead letters of a reason ('' is all) and a time are, and which of them are not to be replayed.
-- `last_offset` bounds a replay: copies that are rejected again lie behind it.
SELECT
    topic,
    `partition`,
    max(`offset`) AS last_offset,
    countIf(reason = 'store_rejected') AS refused_rows,
    countIf(
        reason != 'store_rejected'
        AND (topic, `partition`, `offset`) IN (SELECT topic, `partition`, `offset` FROM dead_letter_replays)
    ) AS replayed,
    countIf(reason != 'store_rejected') AS records
FROM dead_letters FINAL
WHERE (reason = {reason:String} OR {reason:String} = '')
  AND appended_at >= {since:DateTime64(3, 'UTC')}
  AND appended_at < {until:DateTime64(3, 'UTC')}
GROUP BY topic, `partition`
ORDER BY topic, `partition`
