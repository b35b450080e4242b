-- @include numbers
-- @include adapt
-- The state of a quota as a whole, in six strings that a script reads together:
--
--   pause     `ends reason`                            an operator's pause; 0 is without an end
--   cooldown  `ends generation cut streak reason`      a provider's pause; `generation` counts cuts, `cut` is the time of
--                                                      the last one, `streak` counts those without a quiet time between.
--                                                      `alone=N ` before the reason: the next call goes alone for N µs;
--                                                      `lone=GRANT:N ` is that call, once it was granted
--   places    `most at`                                calls in flight that a provider allowed at that time
--   learned   `FINGERPRINT ` and a state of adapt.lua  the learned rate; void for another configuration
--   others    `UNIT:PERIOD sent cost until;` ...       use by others, as the provider's headers reported it;
--             `UNIT:was sent 0 until;`                   the newest use under a former kind, see changed.lua
--             `UNIT:log sent 0 until;`                   the time from which a log made from slices grants
--   guard     `factor`                                 how many times its usual width it has, see widen.lua
local QUOTA_STRINGS = 6
-- The widest guard, as a part of the period.
local GUARD_MOST = 1 / 10
-- One more place is tried each time after so long.
local PLACES_HOLD_US = 30000000
-- A longer window is not paced after a pause: the pacing would outlast the cause of the refusal.
local PACED_MOST_US = 60000000

-- A provider's pause is at least our own, which doubles with each refusal that follows soon.
local FIRST_PAUSE_US, LONGEST_PAUSE_US = 1000000, 60000000
-- After so long without a pause, a refusal no longer doubles the next pause.
local QUIET_US = 2000000
-- A cooldown is kept for so long after its end, so that the next refusal knows the streak.
local COOLDOWN_KEPT_US = 3600000000
-- A refusal comes within this time, so others wait no longer for a call that goes alone.
local ALONE_MOST_US = 10000000

local function cooldown_read(stored)
  local ends, generation, cut, streak, reason = string.match(stored or '', '^(%d+) (%d+) (%d+) (%d+) (.*)$')
  local alone, rest = string.match(reason or '', '^alone=(%d+) (.*)$')
  local lone, lone_us, plain = string.match(reason or '', '^lone=(%S+):(%d+) (.*)$')
  return {
    ends = tonumber(ends) or 0, generation = tonumber(generation) or 0, cut = tonumber(cut) or 0,
    streak = tonumber(streak) or 0, alone = tonumber(alone) or 0, lone = lone, lone_us = tonumber(lone_us),
    reason = rest or plain or reason or '',
  }
end

local function cooldown_write(key, cooldown, now)
  local alone = ''
  if cooldown.alone > 0 then alone = string.format('alone=%.0f ', cooldown.alone)
  elseif cooldown.lone then alone = string.format('lone=%s:%.0f ', cooldown.lone, cooldown.lone_us) end
  redis.call('SET', key, string.format('%.0f %.0f %.0f %.0f %s%s',
    cooldown.ends, cooldown.generation, cooldown.cut, cooldown.streak, alone, cooldown.reason), 'KEEPTTL')
  keep_for(key, math.max(0, cooldown.ends - now) + COOLDOWN_KEPT_US)
end

local function growing_pause(streak)
  return math.min(LONGEST_PAUSE_US, FIRST_PAUSE_US * 2 ^ math.max(0, streak - 1))
end

local function cooldown_forgive(cooldown, now)
  if cooldown.streak == 0 or now - cooldown.ends <= math.max(QUIET_US, growing_pause(cooldown.streak)) then return end
  cooldown.streak, cooldown.alone = 0, math.min(cooldown.alone, FIRST_PAUSE_US)
end

-- The first call after a pause, at `slot`, goes alone: its refusal then costs one call, and not as many as fit in the
-- limits. All others have later slots.
local function cooldown_go_alone(key, cooldown, slot, grant, now)
  -- A far slot shows nothing soon, so nobody waits for that call.
  if cooldown.alone == 0 or slot > math.max(cooldown.ends, now) + cooldown.alone then return end
  cooldown_forgive(cooldown, slot)
  cooldown.lone, cooldown.lone_us = grant, cooldown.alone
  cooldown.ends, cooldown.alone = slot + cooldown.alone, 0
  cooldown_write(key, cooldown, now)
end

-- If the call that goes alone is given back before the others follow, the next one goes in its place. Returns whether it is
-- so.
local function cooldown_not_gone(key, grant, now)
  local cooldown = cooldown_read(redis.call('GET', key))
  if cooldown.lone ~= grant or now >= cooldown.ends then return false end
  cooldown.ends, cooldown.alone = cooldown.ends - cooldown.lone_us, cooldown.lone_us
  cooldown_write(key, cooldown, now)
  return true
end

local function pause_read(stored)
  local ends, reason = string.match(stored or '', '^(%S+) (.*)$')
  return tonumber(ends), reason
end

-- The places that are allowed now, of a configured `count`.
local function places_now(stored, count, now)
  local most, at = string.match(stored or '', '^(%d+) (%d+)$')
  if not most then return count end
  return math.min(count, tonumber(most) + math.max(0, math.floor((now - tonumber(at)) / PLACES_HOLD_US)))
end

-- nil if the quota does not learn (an empty fingerprint).
local function learned_read(stored, fingerprint)
  if fingerprint == '' then return nil end
  local of, state = string.match(stored or '', '^(%S+) (.*)$')
  return adapt_read(of == fingerprint and state or nil)
end

-- The note in `others` under an id, `UNIT:PERIOD` or `UNIT:was`; nil if there is none.
local function others_read(stored, id)
  for known, sent, cost, ends in string.gmatch(stored or '', '(%S+) (%d+) (%d+) (%d+);') do
    if known == id then return {sent = tonumber(sent), cost = tonumber(cost), ends = tonumber(ends)} end
  end
end

-- Write a note and keep those of other ids that are still in force; returns the whole string.
local function others_write(key, stored, id, sent, cost, ends, now)
  local kept, latest = string.format('%s %.0f %.0f %.0f;', id, sent, cost, ends), ends
  for other, was, units, until_us in string.gmatch(stored or '', '(%S+) (%d+) (%d+) (%d+);') do
    if other ~= id and tonumber(until_us) > now then
      kept = kept .. string.format('%s %s %s %s;', other, was, units, until_us)
      latest = math.max(latest, tonumber(until_us))
    end
  end
  redis.call('SET', key, kept, 'PX', ttl_ms(latest - now))
  return kept
end

-- The bound in a denial: the quota, and a unit, `in_flight`, `cooldown` or `paused`.
local function bound_of(quota, cause)
  return 'quota:' .. quota.name .. '.' .. cause
end

-- Turn a configured rate into the rate of now: with a guard for the measured spread, at the learned level, paced after a
-- pause, with use by others. Slices keep their guard, since a new width would count uses twice.
local function rate_now(row, spread)
  local kind, quota = row.kind, row.quota
  row.period = row.span
  if kind == 'day' then
    row.period = 86400000000
  elseif kind == 'log' or kind == 'slices' then
    row.period = tonumber(row.extra)
  elseif kind == 'tokens' then
    local burst, lag = string.match(row.extra, '^(%d+) (%d+)$')
    row.burst, row.lag = tonumber(burst), tonumber(lag)
    -- A bucket of one loses the lag after each call.
    local most = row.span / row.count * (row.burst == 1 and GUARD_MOST or 1)
    row.lag = math.max(row.lag, math.floor(math.min(most, row.lag * quota.guard)))
  end
  -- The rate's name in headers.
  row.id = row.unit .. ':' .. text(row.period)
  if kind ~= 'tokens' then row.others = others_read(quota.others, row.id) end
  if kind == 'log' then
    quota.logged[row.unit] = math.max(quota.logged[row.unit] or 0, row.span)
    -- The measured spread widens it to a hundredth of the period, and refusals to a tenth.
    local guard = math.max(row.span - row.period, math.min(spread, math.floor(row.period / 100)))
    row.span = row.period + math.max(guard, math.floor(math.min(guard * quota.guard, row.period * GUARD_MOST)))
  end
  row.full, row.gap, row.paced = row.count, 0, 0
  if kind == 'day' then return end
  if quota.learned then
    local level = quota.learned.level
    if kind == 'log' then
      local units, span = adapt_allowed(level, row.count, row.span)
      -- A call that costs more than the units allowed at once waits longer in proportion.
      if row.cost > units then units, span = row.cost, math.ceil(span * row.cost / units) end
      row.count, row.span, row.gap = units, span, adapt_gap(quota.learned, units, span)
      -- A refusal does not concern how calls are spread over a long window.
      if row.period > PACED_MOST_US then row.gap = math.min(row.gap, ADAPT_ANSWER_US) end
    elseif kind == 'tokens' then
      row.span = math.ceil(row.span * ADAPT_PPM / level)
    else
      row.count = math.max(row.cost, math.floor(row.count * level / ADAPT_PPM))
    end
  end
  if kind == 'log' then
    -- Windows that share a log keep its units for the longest of their spans.
    quota.keep[row.key] = math.max(quota.keep[row.key] or 0, row.span)
  end
  if quota.cooldown.ends > 0 and row.period <= PACED_MOST_US then
    row.paced, row.even = quota.cooldown.ends + row.span, math.floor(row.span / row.count)
  end
end
