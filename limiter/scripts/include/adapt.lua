-- @include text
-- What a quota really grants, learned from grants and refusals: the twin of limiter/learning/adaptive.py, where each step
-- and constant is explained. The state is the string `level good base top step fails since epoch hold`: ppm of the
-- configured quota and µs. No key is the configured quota itself, never refused.
local ADAPT_PPM, ADAPT_LEAST, ADAPT_ANSWER_US = 1000000, 10000, 250000
local ADAPT_FIELDS = {'level', 'good', 'base', 'top', 'step', 'fails', 'since', 'epoch', 'hold'}

local function adapt_read(stored)
  local state, field = {}, 0
  for number in string.gmatch(stored or '1000000 1000000 1000000 1000000 0 0 0 0 0', '%S+') do
    field = field + 1
    state[ADAPT_FIELDS[field]] = tonumber(number)
  end
  return state
end

local function adapt_text(state)
  local numbers = {}
  for i, field in ipairs(ADAPT_FIELDS) do numbers[i] = text(state[field]) end
  return table.concat(numbers, ' ')
end

local function adapt_part(level, ppm)
  return math.floor(level * ppm / ADAPT_PPM)
end

local function adapt_share(units, count)
  return math.floor(units * ADAPT_PPM / count)
end

-- The units and the span (µs) of a window at this level.
local function adapt_allowed(level, count, span)
  local scaled = level * count
  local units = math.ceil(scaled / ADAPT_PPM)
  return units, math.ceil(span * (units * ADAPT_PPM / scaled))
end

-- The least distance of two slots; `units` and `span` are those of adapt_allowed.
local function adapt_gap(state, units, span)
  local even = math.floor(span / units)
  return state.since > 0 and even or math.min(math.floor(even / 2), ADAPT_ANSWER_US)
end

local function adapt_cut(state, used, left, unit, again)
  local level, cut, found = state.level, nil, true
  if not again and ((used > 0 and used <= level - 2 * unit)
      or (state.good <= used and used < level and level <= state.good + 2 * unit)) then
    cut = used
  elseif not again and state.good < level then
    cut, found = state.good, state.step > 0
  elseif again and state.base < level then
    cut = level - state.base <= adapt_part(level, 40000) and state.base or math.floor((state.base + level) / 2)
  elseif left > 0 then
    cut, found = math.min(left + unit, adapt_part(level, 970000)), false
  else
    cut, found = adapt_part(level, again and 700000 or 970000), false
  end
  if used > 0 then cut = math.min(cut, used) end
  cut = math.max(cut, adapt_part(level, 700000), ADAPT_LEAST)
  return cut, found and cut or level
end

-- Changes `state` after a 429; false where the refused call belongs to the last cut. Shares as in `Refused`.
local function adapt_refused(state, now, sent, newest, used, left, unit, period)
  if sent <= state.epoch then return false end
  local again = state.fails > 0 and now - state.since <= 3 * period
  local level, top = adapt_cut(state, used, left, unit, again)
  state.level, state.good, state.base = level, level, math.min(state.base, level)
  state.top, state.step, state.fails = math.max(top, level), 0, again and state.fails + 1 or 1
  state.since, state.epoch, state.hold = now, math.max(now, newest), now + 10 * period
  return true
end

-- Before this slot (µs) adapt_served changes nothing, so the log need not be counted.
local function adapt_due(state, period)
  if state.good < state.level or state.fails > 0 then return state.since + period end
  return state.base < ADAPT_PPM and state.hold or 2 ^ 53
end

-- Changes `state` at a grant; false where that says nothing new. `used` as in `Served`.
local function adapt_served(state, at, used, unit, period)
  local level = state.level
  if at < adapt_due(state, period) or used < adapt_part(level, 900000) then return false end
  local held, gap, rise, step = at >= state.hold, state.top - level, nil, 0
  state.good, state.fails = level, 0
  if held then state.base = level end
  if level >= ADAPT_PPM then
    state.step = 0
    return true
  elseif state.step > 0 then
    rise, step = 2 * state.step, 2 * state.step
  elseif gap > math.max(unit, adapt_part(level, 20000)) then
    rise = math.floor((gap + 1) / 2)
  elseif held then
    rise = math.max(10000, math.min(unit, 50000))
    step = rise
  else
    return true
  end
  state.level, state.step = math.min(ADAPT_PPM, level + rise), step
  state.top, state.since, state.hold = math.max(state.top, state.level), at, at + 10 * period
  return true
end
