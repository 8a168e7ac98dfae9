-- How many dead letters a time has, by reason ('' is all), and how many of them were replayed.
SELECT
    reason,
    count() AS found,
    countIf((topic, `partition`, `offset`) IN (SELECT topic, `partition`, `offset` FROM dead_letter_replays))
        AS replayed
FROM dead_letters FINAL
WHERE (reason = {reason:String} OR {reason:String} = '')
  AND appended_at >= {since:DateTime64(3, 'UTC')}
  AND appended_at < {until:DateTime64(3, 'UTC')}
GROUP BY reason
ORDER BY found DESC, reason
