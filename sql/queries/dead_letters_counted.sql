-- Events that are counted under the id of a dead letter of a topic: sending that one again would be no repair.
SELECT DISTINCT tenant_id, external_customer_id, id
FROM usage_events
WHERE id IN
(
    SELECT JSONExtractString(payload, 'id')
    FROM dead_letters FINAL
    WHERE topic = {topic:String}
      AND (reason = {reason:String} OR {reason:String} = '')
      AND appended_at >= {since:DateTime64(3, 'UTC')}
      AND appended_at < {until:DateTime64(3, 'UTC')}
)
