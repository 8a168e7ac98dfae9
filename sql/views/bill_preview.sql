-- What a customer owes so far for the time around a moment: the rows of the next invoice.
--
--   SELECT * FROM bill_preview(tenant='acme', customer='cust_42', at='2026-11-23 12:00:00')
--   SELECT external_customer_id, currency, sum(amount) AS total
--   FROM bill_preview(tenant='acme', customer='', at='2026-11-23 12:00:00') GROUP BY ALL
--
-- customer '' is all customers; at is UTC. A row is a charge whose segment contains the moment: start
-- inclusive, end exclusive. After a change of plan in mid-period the part of the period before it is a segment
-- of its own: ask with a moment of that. A charge that an invoice covers already is here as well.
--   meter_id          '' is the plan's own fee
--   quantity          what the meter's aggregation made of the usage, with adjustments
--   amount_unrounded  the exact price of the quantity
--   amount            what is owed: rounded to the currency's precision, so add these, currency by currency
--                     (Decimal(76, 12), since a sum of Decimal(38, 12) wraps around silently)
--   tiers             JSON list of up_to, quantity, unit_amount, flat_amount, amount; [] of prices without
-- Without rows of nothing: what is left of a plan that turned out not to hold has quantity 0 and costs 0.
CREATE OR REPLACE VIEW bill_preview AS
SELECT
    external_customer_id,
    period_start,
    period_end,
    plan_id,
    currency,
    meter_id,
    events,
    quantity,
    amount_unrounded,
    toDecimal256(amount, 12) AS amount,
    tiers
FROM
(
    SELECT *
    FROM usage_charges FINAL
    WHERE tenant_id = {tenant:String}
      AND (external_customer_id = {customer:String} OR {customer:String} = '')
      AND period_start <= {at:DateTime('UTC')}
      AND period_end > {at:DateTime('UTC')}
      AND (quantity != 0 OR amount_unrounded != 0)
);
