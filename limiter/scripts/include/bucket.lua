-- @include now
-- A token bucket is the string `updated credit period grant before_updated before_credit`: at `updated` (µs) it
-- held `credit`. Credit counts token x period: `count` of it comes back each µs and a token costs `period`, so all
-- of it is whole numbers and no rate, however odd (59/min), loses or gains a fraction. `grant` is the last
-- charge and `before_*` what was there without it. No key is a full bucket.
local function bucket_read(stored, now, period, burst)
  if not stored then return now, burst * period end
  local updated, credit, old_period = string.match(stored, '^(%S+) (%S+) (%S+)')
  credit = tonumber(credit)
  -- A configuration changed while the bucket lived: the tokens stay, their size in credit is new.
  if tonumber(old_period) ~= period then credit = math.floor(credit * period / tonumber(old_period)) end
  return tonumber(updated), math.min(credit, burst * period)
end

local function bucket_credit_at(time, updated, credit, count, period, burst)
  return math.min(burst * period, credit + (time - updated) * count)
end
