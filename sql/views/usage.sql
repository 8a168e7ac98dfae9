-- Usage of one meter per customer and step: the analysts' way to usage_windows.
--
--   SELECT * FROM usage(tenant='acme', meter='llm-tokens',
--                       since='2026-11-01 00:00:00', until='2026-12-01 00:00:00', step=3600)
--
-- since is inclusive, until exclusive, both UTC and of a window's start; step is in seconds, counted from
-- 1970-01-01 00:00 UTC, and a multiple of the meter's window (a finer step puts a whole window into one row).
--   events   readings: the quantity of a COUNT meter, whose total is 0
--   total    sum of the values, exact: Decimal(76, 12), since a sum of Decimal(38, 12) wraps around silently
--   average  total / events, 12 decimals, the rest cut off (towards zero)
--   uniques  distinct values of a COUNT_UNIQUE meter, else 0: exact to 4096, then about 0.3 % off
CREATE OR REPLACE VIEW usage AS
SELECT
    external_customer_id,
    step_start AS window_start,
    readings AS events,
    exact_total AS total,
    exact_total / greatest(readings, 1) AS average,
    distinct_values AS uniques
FROM
(
    SELECT
        external_customer_id,
        toStartOfInterval(window_start, toIntervalSecond({step:UInt32}), 'UTC') AS step_start,
        sum(events) AS readings,
        sum(toDecimal256(total, 12)) AS exact_total,
        uniqCombined64Merge(uniques) AS distinct_values
    FROM usage_windows FINAL
    WHERE tenant_id = {tenant:String}
      AND meter_id = {meter:String}
      AND window_start >= {since:DateTime('UTC')}
      AND window_start < {until:DateTime('UTC')}
    GROUP BY external_customer_id, step_start
);
