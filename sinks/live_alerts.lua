-- Publishes a wallet alert, unless its id was published before.
--
-- KEYS  1 the mark of the alert's id, 2 the customer's stream of alerts (one hash tag, so one slot)
-- ARGV  1 seconds that the mark is kept, 2 channel, 3 the alert as JSON, 4 most entries of the stream (about)
-- ->    1 published, 0 known

if redis.call("EXISTS", KEYS[1]) == 1 then return 0 end
redis.call("XADD", KEYS[2], "MAXLEN", "~", ARGV[4], "*", "alert", ARGV[3])
redis.call("SET", KEYS[1], "1", "EX", ARGV[1])
redis.call("PUBLISH", ARGV[2], ARGV[3])
return 1
