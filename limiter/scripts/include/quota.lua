-- @include text
-- @include adapt
-- What is known of a quota as a whole, in five strings that a script reads together:
--
--   pause     `ends reason`                            an operator's stop; 0 is without an end
--   cooldown  `ends generation cut streak reason`      a provider's pause; `generation` counts cuts, `cut` is when the
--                                                      last one was, `streak` how many followed without a quiet time
--   places    `most at`                                calls in flight that a provider allowed at that time
--   learned   `FINGERPRINT ` and a state of adapt.lua  what the rate really is; of another configuration it is void
--   others    `UNIT:PERIOD sent cost until` by `;`     use by others, as the provider's headers told
local QUOTA_STRINGS = 5
-- Fewer places are tried for so long, then one more.
local PLACES_HOLD_US = 30000000
-- A window longer than this is not opened anew step by step: that would take longer than what the refusal was about.
local PACED_MOST_US = 60000000

local function cooldown_read(stored)
  local ends, generation, cut, streak, reason = string.match(stored or '', '^(%d+) (%d+) (%d+) (%d+) (.*)$')
  return {
    ends = tonumber(ends) or 0, generation = tonumber(generation) or 0, cut = tonumber(cut) or 0,
    streak = tonumber(streak) or 0, reason = reason or '',
  }
end

local function cooldown_text(cooldown)
  return string.format('%.0f %.0f %.0f %.0f %s',
    cooldown.ends, cooldown.generation, cooldown.cut, cooldown.streak, cooldown.reason)
end

local function pause_read(stored)
  local ends, reason = string.match(stored or '', '^(%S+) (.*)$')
  return tonumber(ends), reason
end

-- How many places there are, of `count` that are configured.
local function places_now(stored, count, now)
  local most, at = string.match(stored or '', '^(%d+) (%d+)$')
  if not most then return count end
  return math.min(count, tonumber(most) + math.max(0, math.floor((now - tonumber(at)) / PLACES_HOLD_US)))
end

-- nil where the quota does not learn (an empty fingerprint).
local function learned_read(stored, fingerprint)
  if fingerprint == '' then return nil end
  local of, state = string.match(stored or '', '^(%S+) (.*)$')
  return adapt_read(of == fingerprint and state or nil)
end

-- What others use of the limit on `unit` with this period; nil if nobody told.
local function others_read(stored, unit, period)
  for id, sent, cost, ends in string.gmatch(stored or '', '(%S+) (%d+) (%d+) (%d+);') do
    if id == unit .. ':' .. text(period) then
      return {sent = tonumber(sent), cost = tonumber(cost), ends = tonumber(ends)}
    end
  end
end

-- The provider's own period (µs) of a row's limit, by which headers name it.
local function period_of(row)
  if row.kind == 'day' then return 86400000000 end
  if row.kind == 'tokens' or row.kind == 'fixed' then return row.span end
  return tonumber(row.extra)
end

-- A row's limit as it is now and not as it is configured: with a guard as wide as calls were measured to be uneven
-- (a hundredth of the period at most), at the level that was learned, and paced after a pause.
local function limit_now(row, quota, spread)
  if row.kind == 'window' or row.kind == 'slices' then
    row.span = row.span + math.max(0, math.min(spread, math.floor(row.period / 100)) - (row.span - row.period))
  end
  row.full, row.gap, row.paced = row.count, 0, 0
  if quota.learned then
    local level = quota.learned.level
    if row.kind == 'window' then
      local units, span = adapt_allowed(level, row.count, row.span)
      -- A call of more units than are allowed at once waits as much longer.
      if row.cost > units then units, span = row.cost, math.ceil(span * row.cost / units) end
      row.count, row.span, row.gap = units, span, adapt_gap(quota.learned, units, span)
    elseif row.kind == 'slices' or row.kind == 'fixed' then
      row.count = math.max(row.cost, math.floor(row.count * level / ADAPT_PPM))
    else
      row.span = math.ceil(row.span * ADAPT_PPM / level)
    end
  end
  if quota.cooldown.ends > 0 and row.period <= PACED_MOST_US then
    row.paced, row.even = quota.cooldown.ends + row.span, math.floor(row.span / row.count)
  end
end
