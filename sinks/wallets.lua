-- Applies one wallet row, if it is news, and publishes by how much `available` changed.
--
-- KEYS  1 the wallet's hash, 2 the customer's stream of deltas, 3 the set of the customer's currencies
--       (one hash tag, so one slot of a cluster)
-- ARGV  1 version, 2 balance, 3 unpaid_invoices, 4 usage, 5 available, 6 currency, 7 as_of, 8 updated_at,
--       9 channel, 10 tenant_id, 11 external_customer_id, 12 most entries of the stream (about)
-- ->    0 stale or known: nothing changed; 1 a newer version of the same amounts; 2 applied and published
--
-- A row is news if its version is higher, or the same with other amounts: a replay can fold the same
-- inputs in another order, and what it sends later is the truth. The delta is against the stored row, so
-- the deltas of a wallet add up to its `available`, whatever was repeated.
-- Lua's numbers are doubles. Amounts and versions are texts here, added by 14 digits at a time (exact
-- below 2^53), of any length; amounts are canonical: no exponent, no leading or trailing zeros, no "-0".

local LIMB = 14

-- Whether digits a > b, both without leading zeros.
local function greater(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

local function without_leading_zeros(digits)
  return (string.gsub(digits, "^0+", ""))
end

-- a + sign * b of digit texts; sign -1 needs a >= b.
local function combine(a, b, sign)
  local width = math.ceil((math.max(#a, #b) + 1) / LIMB) * LIMB
  a = string.rep("0", width - #a) .. a
  b = string.rep("0", width - #b) .. b
  local limbs, carry = {}, 0
  for last = width, 1, -LIMB do
    local sum = tonumber(string.sub(a, last - LIMB + 1, last)) + carry
      + sign * tonumber(string.sub(b, last - LIMB + 1, last))
    carry = 0
    if sum < 0 then
      sum, carry = sum + 1e14, -1
    elseif sum >= 1e14 then
      sum, carry = sum - 1e14, 1
    end
    table.insert(limbs, 1, string.format("%014.0f", sum))
  end
  return without_leading_zeros(table.concat(limbs))
end

-- A decimal text as sign and digits, the last `places` of them behind the point.
local function parse(text)
  local minus, whole, fraction = string.match(text, "^(%-?)(%d+)%.?(%d*)$")
  if not whole then error("not a decimal: " .. text) end
  return minus == "-" and -1 or 1, whole, fraction
end

local function subtract(a, b)
  local sign_a, whole_a, fraction_a = parse(a)
  local sign_b, whole_b, fraction_b = parse(b)
  local places = math.max(#fraction_a, #fraction_b)
  local x = without_leading_zeros(whole_a .. fraction_a .. string.rep("0", places - #fraction_a))
  local y = without_leading_zeros(whole_b .. fraction_b .. string.rep("0", places - #fraction_b))
  local sign, digits
  if sign_a ~= sign_b then
    sign, digits = sign_a, combine(x, y, 1)
  elseif greater(y, x) then
    sign, digits = -sign_a, combine(y, x, -1)
  else
    sign, digits = sign_a, combine(x, y, -1)
  end
  if digits == "" then return "0" end
  digits = string.rep("0", places + 1 - #digits) .. digits
  local text = string.sub(digits, 1, #digits - places)
  if places > 0 then
    text = string.gsub(text .. "." .. string.sub(digits, -places), "%.?0*$", "")
  end
  return (sign < 0 and "-" or "") .. text
end

local version, available = ARGV[1], ARGV[5]
local stored = redis.call("HMGET", KEYS[1], "version", "balance", "unpaid_invoices", "usage", "available")
local same = stored[2] == ARGV[2] and stored[3] == ARGV[3] and stored[4] == ARGV[4] and stored[5] == available
if stored[1] and not greater(version, stored[1]) and (same or version ~= stored[1]) then return 0 end

local delta = subtract(available, stored[5] or "0")
redis.call(
  "HSET", KEYS[1], "balance", ARGV[2], "unpaid_invoices", ARGV[3], "usage", ARGV[4], "available", available,
  "currency", ARGV[6], "version", version, "as_of", ARGV[7], "updated_at", ARGV[8]
)
if same then return 1 end
if not stored[1] then redis.call("SADD", KEYS[3], ARGV[6]) end
redis.call(
  "XADD", KEYS[2], "MAXLEN", "~", ARGV[12], "*",
  "currency", ARGV[6], "delta", delta, "available", available, "version", version, "as_of", ARGV[7]
)
redis.call("PUBLISH", ARGV[9], cjson.encode({
  tenant_id = ARGV[10], external_customer_id = ARGV[11], currency = ARGV[6],
  delta = delta, available = available, version = version, as_of = ARGV[7],
}))
return 2
