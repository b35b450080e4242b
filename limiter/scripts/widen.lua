-- Widen the guard of a quota after a refusal for the rate that its books do not explain: the way to the provider varies by
-- more than the guard.
--
-- KEYS   1 the quota's guard, see include/quota.lua   rest: logs
-- ARGV   1 grant id of the refused call   2 its slot (µs)   then threes, one a window with a log: key index, count,
--        period (µs)
-- Returns how many times its usual width the guard has now; 0 if the refusal has another reason.
--
-- With a tenth more of the period in the window, it would hold more than the count: then late and early arrivals explain
-- the refusal. A window that is emptier is refused for use by others, or for a quota smaller than configured.
-- Why atomic: two refusals at once must not widen the guard from the same width.
-- @include numbers
local KEPT_MS, MOST = 3600000, 8
local grant, crowded = ARGV[1], #ARGV == 2
for i = 3, #ARGV, 3 do
  local key, count, period = KEYS[tonumber(ARGV[i])], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  -- A late call has moved since its grant.
  local slot = tonumber(redis.call('ZSCORE', key, grant .. ':1') or ARGV[2])
  local used = redis.call('ZCOUNT', key, '(' .. text(slot - period - math.floor(period / 10)), text(slot))
  crowded = crowded or used > count
end
if not crowded then return 0 end
local factor = math.min(MOST, 2 * tonumber(redis.call('GET', KEYS[1]) or 1))
redis.call('SET', KEYS[1], text(factor), 'PX', KEPT_MS)
return factor
