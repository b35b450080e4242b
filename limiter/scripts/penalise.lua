-- Act on a provider's refusal: prolong the quota's pause, recall unsent grants, and cut the learned rate or the places.
--
-- KEYS   1 clock   2..7 the quota's six strings, see include/quota.lua   8 leases   9 refused   rest: logs
-- ARGV   1 test clock (µs or '')   2 kind: rate, concurrency or overload   3 pause (µs) from now; 0: unnamed
--        4 when the refused call was granted, 5 its slot (µs; 0: unknown)   6 its grant id   7 its weight in flight
--        8 reason   9 channel of the doorbell   10 the quota's name   11 fingerprint of a quota that learns, or ''
--        12 places configured (0: none)   13 period (µs) of a quota without a log
--        rest: rows of four, of windows with a log: key index, count, span (µs), period (µs)
-- Returns {pause (µs) from now, 1 if this was a cut, generation, old level, new level (ppm), places}. The bell says
-- `quota NAME NOW` if earlier grants are recalled.
--
-- A call that was granted before the last cut makes no further cut: its refusal shows nothing new.
-- Why atomic: two replicas that report one refusal must neither cut twice nor shorten each other's pause.
-- @include clock
-- @include quota
-- @include leases
local PLACES_KEPT_US, LEARNED_KEPT_US = 3600000000, 86400000000
-- How long a repeated report is recognised, at least.
local REMEMBERED_US = 60000000
-- A pause that grows by less makes no recall.
local NEWS_US = 10000

local strings = redis.call('MGET', unpack(KEYS, 1, 6))
local clock = clock_read(strings[1], ARGV[1], '', '')
local now = clock.now
local cooldown = cooldown_read(strings[3])
local kind, named, granted, slot = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local grant, weight, places = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[12])
local learned = learned_read(strings[5], ARGV[11])

if granted == 0 then granted = now end
local level = learned and learned.level or ADAPT_PPM
local most = places > 0 and places_now(strings[4], places, now) or 0

-- Ignore a report that is repeated after a lost reply.
local longest = REMEMBERED_US
for i = 14, #ARGV, 4 do longest = math.max(longest, tonumber(ARGV[i + 2])) end
if grant ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[9], '-inf', text(now - 2 * longest))
  -- With a slot that is still ahead, the entry would be meant to outlive its key.
  local known = redis.call('ZADD', KEYS[9], 'NX', text(slot > 0 and math.min(slot, now) or now), grant) == 0
  keep_for(KEYS[9], 2 * longest)
  if known then
    return {text(math.max(0, cooldown.ends - now)), 0, cooldown.generation, text(level), text(level), most}
  end
end

-- Cuts of the places are apart from cuts of the rate.
local fewer, cut = places > 0 and kind == 'concurrency', cooldown.cut
if fewer then cut = tonumber(string.match(strings[4] or '', '^%d+ (%d+)$')) or 0 end
local sequel = granted <= cut
cooldown_forgive(cooldown, now)
if not sequel and not fewer then cooldown.cut = now end
if not sequel then cooldown.generation = cooldown.generation + 1 end

-- Allow only as many calls at once as ran when this call was refused.
local others_fly = 0
if fewer then
  others_fly = math.max(0, leases_in_use(KEYS[8], now) - weight)
  most = math.max(1, sequel and most - weight or math.min(most, others_fly))
  redis.call('SET', KEYS[4], string.format('%.0f %.0f', most, sequel and cut or now),
    'PX', ttl_ms((places - most) * PLACES_HOLD_US + PLACES_KEPT_US))
end

-- A sequel needs no pause. For places, wait for the end of a call that runs; without one the account itself is full, and
-- the last of several refused calls is a sequel.
local pauses = not sequel
if fewer then pauses = others_fly == 0 and (not sequel or now >= cooldown.ends) end
local own = 0
if pauses then
  cooldown.streak = math.min(cooldown.streak + 1, 60)
  own = growing_pause(cooldown.streak)
end

-- Read the accepted units from the log, up to this call's arrival, for the fullest limit.
local new_level = level
if learned and kind == 'rate' then
  local fullest
  for i = 14, #ARGV, 4 do
    local key, count, span = KEYS[tonumber(ARGV[i])], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
    local function accepted(from, to)
      local range = {'(' .. text(from), text(to)}
      return math.max(0, redis.call('ZCOUNT', key, range[1], range[2]) - redis.call('ZCOUNT', KEYS[9], range[1], range[2]))
    end
    -- A late call has moved since its grant.
    local at = tonumber(redis.call('ZSCORE', key, grant .. ':1') or (slot > 0 and slot or now))
    local used = adapt_share(accepted(at - span, at - 1), count)
    if not fullest or used > fullest.used then
      fullest = {used = used, left = -1, unit = adapt_share(1, count), period = tonumber(ARGV[i + 3])}
      if named > 0 then fullest.left = adapt_share(accepted(now + named - fullest.period, now), count) end
    end
  end
  -- Without a log (a token bucket) there is only the refusal itself.
  fullest = fullest or {used = -1, left = -1, unit = 0, period = tonumber(ARGV[13])}
  -- A rate that is learned needs only a short first pause. If it is refused again soon, the rate is not the reason.
  if cooldown.streak == 1 then own = math.min(own, math.floor(fullest.period / 16)) end
  if not sequel and adapt_refused(learned, now, now, now, fullest.used, fullest.left, fullest.unit, fullest.period) then
    redis.call('SET', KEYS[5], ARGV[11] .. ' ' .. adapt_text(learned), 'PX', ttl_ms(LEARNED_KEPT_US))
    new_level = learned.level
  end
end

if own > 0 then cooldown.alone = named > LONGEST_PAUSE_US and ALONE_MOST_US or math.min(own / 4, ALONE_MOST_US) end
local known, pause = cooldown.ends, math.max(named, own)
if pause > 0 and now + pause > known then cooldown.ends, cooldown.reason, cooldown.lone = now + pause, ARGV[8], nil end
cooldown_write(KEYS[3], cooldown, now)
if cooldown.ends > math.max(known, now) + NEWS_US or new_level < level then
  redis.call('PUBLISH', ARGV[9], 'quota ' .. ARGV[10] .. ' ' .. text(now))
end
return {
  text(math.max(0, cooldown.ends - now)), sequel and 0 or 1, cooldown.generation, text(level), text(new_level), most,
}
