-- Revenue by day, plan and currency: what is owed for the segments that start on a day.
--
--   SELECT * FROM revenue(tenant='acme', since='2026-11-01 00:00:00', until='2026-12-01 00:00:00')
--
-- since is inclusive, until exclusive, both UTC and of a segment's start; a segment is a billing period, or
-- its part on one plan. All that is owed for a segment is on the day (UTC) of its start, and grows there while
-- it is used: with a DAILY plan that is each day's own revenue, with a MONTHLY plan the month's is on its
-- first day. Nothing is spread over a period's days: tiers and packages price a period as a whole, so that no
-- part of the amount belongs to one day's usage, and an even spread would be neither exact nor earned so.
-- Sums over plans and days agree with the bills to the last digit. Invoices don't change it: a charge is
-- revenue before, while and after it is invoiced and paid.
--   customers         customers that have a charge
--   amount_unrounded  the exact prices
--   amount            what is owed: each charge rounded, then added
-- Without charges of nothing, as in the view bill_preview.
CREATE OR REPLACE VIEW revenue AS
SELECT
    toDate(period_start, 'UTC') AS day,
    plan_id,
    currency,
    uniqExact(external_customer_id) AS customers,
    sum(exact_unrounded) AS amount_unrounded,
    sum(exact_amount) AS amount
FROM
(
    SELECT
        period_start,
        plan_id,
        currency,
        external_customer_id,
        amount_unrounded AS exact_unrounded,
        toDecimal256(amount, 12) AS exact_amount
    FROM usage_charges FINAL
    WHERE tenant_id = {tenant:String}
      AND period_start >= {since:DateTime('UTC')}
      AND period_start < {until:DateTime('UTC')}
      AND (quantity != 0 OR amount_unrounded != 0)
)
GROUP BY day, plan_id, currency;
