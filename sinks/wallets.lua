-- Applies one wallet row, if it is news, and publishes by how much `available` changed.
--
-- KEYS  1 the wallet's hash, 2 the customer's stream of deltas, 3 the set of the customer's currencies
--       (one hash tag, so one slot of a cluster)
-- ARGV  of the wallet: 1 currency, 2 channel, 3 the message's JSON up to and without what follows here,
--       4 most entries of the stream (about); of the row: 5 version, 6 balance, 7 unpaid_invoices, 8 usage,
--       9 available, 10 as_of, 11 updated_at
-- ->    0 stale or known: nothing changed; 1 a newer version of the same amounts; 2 applied and published
--
-- A row is news if its version is higher, or the same with other amounts: a replay can fold the same
-- inputs in another order, and what it sends later is the truth. The delta is against the stored row, so
-- the deltas of a wallet add up to its `available`, whatever was repeated.
-- Amounts and versions are texts of any length; amounts are canonical: no exponent, no leading or trailing
-- zeros, no "-0".
--
-- Redis runs one script at a time, and all of this for each wallet that changes, so a function costs its
-- making each time (0.2 us): there is one, and what only long numbers need is made inside it.

-- a - b, exactly.
local function subtract(a, b)
  local fraction_a, fraction_b = string.match(a, "^%-?%d+%.?(%d*)$"), string.match(b, "^%-?%d+%.?(%d*)$")
  if not (fraction_a and fraction_b) then error("not a decimal: " .. (fraction_a and b or a)) end
  local places = math.max(#fraction_a, #fraction_b)

  -- Lua's numbers are doubles: reading two numbers below 10^15 units of the last place and subtracting them
  -- is off by less than 0.45 of such a unit, so the nearest decimal of as many places is the difference.
  local x, y = tonumber(a), tonumber(b)
  if math.max(math.abs(x), math.abs(y)) < 10 ^ (15 - places) then
    local text = string.format("%." .. places .. "f", x - y)
    if places > 0 and string.sub(text, -1) == "0" then text = string.gsub(text, "%.?0*$", "") end
    return text
  end

  -- Longer ones by 14 digits at a time, which with a carry are exact below 2^53.
  local LIMB = 14

  local function without_leading_zeros(digits)
    return (string.gsub(digits, "^0+", ""))
  end

  -- The sign, and the digits as a whole number of units of the last place.
  local function units(text, fraction)
    local minus, whole = string.match(text, "^(%-?)(%d+)")
    local digits = whole .. fraction .. string.rep("0", places - #fraction)
    return minus == "-" and -1 or 1, without_leading_zeros(digits)
  end

  -- digits + sign * others of digit texts; sign -1 needs digits >= others.
  local function combine(digits, others, sign)
    local width = math.ceil((math.max(#digits, #others) + 1) / LIMB) * LIMB
    digits = string.rep("0", width - #digits) .. digits
    others = string.rep("0", width - #others) .. others
    local limbs, carry = {}, 0
    for last = width, 1, -LIMB do
      local sum = tonumber(string.sub(digits, last - LIMB + 1, last)) + carry
        + sign * tonumber(string.sub(others, last - LIMB + 1, last))
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

  local sign, digits_a = units(a, fraction_a)
  local sign_b, digits_b = units(b, fraction_b)
  local digits
  if sign ~= sign_b then
    digits = combine(digits_a, digits_b, 1)
  elseif #digits_b > #digits_a or #digits_b == #digits_a and digits_b > digits_a then
    sign, digits = -sign, combine(digits_b, digits_a, -1)
  else
    digits = combine(digits_a, digits_b, -1)
  end
  if digits == "" then return "0" end
  digits = string.rep("0", places + 1 - #digits) .. digits
  local text = string.sub(digits, 1, #digits - places)
  if places > 0 then
    text = string.gsub(text .. "." .. string.sub(digits, -places), "%.?0*$", "")
  end
  return (sign < 0 and "-" or "") .. text
end

local currency, version, available, as_of = ARGV[1], ARGV[5], ARGV[9], ARGV[10]
local stored = redis.call("HMGET", KEYS[1], "version", "balance", "unpaid_invoices", "usage", "available")
local known = stored[1]
local same = stored[2] == ARGV[6] and stored[3] == ARGV[7] and stored[4] == ARGV[8] and stored[5] == available
if known then -- versions have no leading zeros: the longer one is higher
  local is_higher = #version > #known or #version == #known and version > known
  if not is_higher and (same or version ~= known) then return 0 end
end

local delta = subtract(available, stored[5] or "0")
redis.call(
  "HSET", KEYS[1], "balance", ARGV[6], "unpaid_invoices", ARGV[7], "usage", ARGV[8], "available", available,
  "currency", currency, "version", version, "as_of", as_of, "updated_at", ARGV[11]
)
if same then return 1 end
if not known then redis.call("SADD", KEYS[3], currency) end
redis.call(
  "XADD", KEYS[2], "MAXLEN", "~", ARGV[4], "*",
  "currency", currency, "delta", delta, "available", available, "version", version, "as_of", as_of
)
redis.call(
  "PUBLISH", ARGV[2],
  ARGV[3] .. ',"delta":"' .. delta .. '","available":"' .. available
    .. '","version":"' .. version .. '","as_of":"' .. as_of .. '"}'
)
return 2
