-- Usage of one meter over a whole time, of one customer or (customer='') of all: distinct values counted once.
SELECT
    sum(events) AS readings,
    sum(toDecimal256(total, 12)) AS exact_total,
    uniqCombined64Merge(uniques) AS distinct_values
FROM usage_windows FINAL
WHERE tenant_id = {tenant:String}
  AND meter_id = {meter:String}
  AND window_start >= {since:DateTime('UTC')}
  AND window_start < {until:DateTime('UTC')}
  AND (external_customer_id = {customer:String} OR {customer:String} = '')
