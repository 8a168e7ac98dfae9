-- The view `usage`, of one customer or (customer='') of all, in order.
SELECT external_customer_id, window_start, events, total, average, uniques
FROM usage(tenant={tenant:String}, meter={meter:String}, since={since:DateTime('UTC')},
           until={until:DateTime('UTC')}, step={step:UInt32})
WHERE external_customer_id = {customer:String} OR {customer:String} = ''
ORDER BY external_customer_id, window_start
