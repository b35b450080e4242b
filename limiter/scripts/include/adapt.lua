-- @include numbers
-- Learns a quota's real rate from grants and refusals, as a multiplier on the configured rate. The state is a string of
-- these numbers, in this order; without a key it is the configured rate, never refused. Levels are ppm of the configured
-- rate, the hard ceiling; times are µs. A test compares this file with tests/limiter/learning/model.py.
--
--   level  the multiplier now              good   the last level that carried a full busy window
--   base   the last level kept for a hold  top    the level of the next expected refusal; growth halves the way to it
--   step   the last rise beyond `top`, 0: none    fails  the cuts since the last clean window
--   since  the last change of the level, 0: none  epoch  the newest slot that was granted before the last cut
--   hold   the time of the next try beyond `top`
local ADAPT_PPM, ADAPT_LEAST = 1000000, 10000
-- A first refusal after a quiet time may be jitter and costs 3 %. Another one before a clean window shows a smaller quota
-- and costs 30 %. If every cut cost 30 %, a quarter of that (7.5 %) would be lost for ever while the rate climbs back.
local ADAPT_FINE, ADAPT_COARSE = 970000, 700000
-- A window that used a smaller share of its level shows nothing about the rest.
local ADAPT_BUSY = 900000
-- At this distance from a refused level, a closer search costs more refusals than it gains.
local ADAPT_CLOSE = 20000
-- The first step beyond the refused level is one call a window, within these bounds.
local ADAPT_LEAST_STEP, ADAPT_MOST_STEP = 10000, 50000
local ADAPT_HOLD_PERIODS, ADAPT_FORGIVEN_PERIODS = 10, 3
-- Within this time a refusal is reported and recalls every grant.
local ADAPT_ANSWER_US = 250000
local ADAPT_NEVER_US = 2 ^ 53
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

-- `units` of a configured `count` in ppm; adapt_allowed turns that back into the same units.
local function adapt_share(units, count)
  return math.floor(units * ADAPT_PPM / count)
end

-- The units and the span (µs) of a window at this level. Units are rounded up, and the span grows to match: 97 % of 1 a
-- minute is 1 in 62 s.
local function adapt_allowed(level, count, span)
  local scaled = level * count
  local units = math.ceil(scaled / ADAPT_PPM)
  -- Divide first: a double does not hold the product of all three exactly.
  return units, math.ceil(span * (units * ADAPT_PPM / scaled))
end

-- The least distance of two slots; `units` and `span` are those of adapt_allowed. Calls that leave together are refused
-- together, before the first refusal teaches anything. Before a refusal a window may be used up in half of its time, and
-- no two calls need more distance than a reply takes. After one, calls are even, which costs no throughput.
local function adapt_gap(state, units, span)
  local even = math.floor(span / units)
  return state.since > 0 and even or math.min(math.floor(even / 2), ADAPT_ANSWER_US)
end

-- The next level, and the level of the next expected refusal. If fewer calls than allowed were accepted, their number is
-- the quota. A full log shows nothing, and soon after a cut it still has grants from before. Then the cut takes back the
-- last rise; next, all rises since the last hold; if there is none, a share. No refusal costs more than the coarse share,
-- since it may be mistaken for a rate's.
local function adapt_cut(state, used, left, unit, again)
  local level, cut, found = state.level, nil, true
  if not again and ((used > 0 and used <= level - 2 * unit)
      or (state.good <= used and used < level and level <= state.good + 2 * unit)) then
    cut = used
  elseif not again and state.good < level then
    cut, found = state.good, state.step > 0
  elseif again and state.base < level then
    local near = level - state.base <= adapt_part(level, 2 * ADAPT_CLOSE)
    cut = near and state.base or math.floor((state.base + level) / 2)
  elseif left > 0 then
    cut, found = math.min(left + unit, adapt_part(level, ADAPT_FINE)), false
  else
    cut, found = adapt_part(level, again and ADAPT_COARSE or ADAPT_FINE), false
  end
  if used > 0 then cut = math.min(cut, used) end
  cut = math.max(cut, adapt_part(level, ADAPT_COARSE), ADAPT_LEAST)
  return cut, found and cut or level
end

-- Changes `state` after a refusal for a rate; false if the call was granted before the last cut. Shares are ppm of the
-- configured count, for the limit with the largest share.
--   sent, newest   the slot of the refused call, and the newest slot granted so far
--   used           the accepted share in the limit's span that ends at `sent`, without the call (-1: unknown)
--   left           the part of `used` that is in the provider's window when its Retry-After is over (-1: unknown)
--   unit           the share of one call
local function adapt_refused(state, now, sent, newest, used, left, unit, period)
  if sent <= state.epoch then return false end
  local again = state.fails > 0 and now - state.since <= ADAPT_FORGIVEN_PERIODS * period
  local level, top = adapt_cut(state, used, left, unit, again)
  state.level, state.good, state.base = level, level, math.min(state.base, level)
  state.top, state.step, state.fails = math.max(top, level), 0, again and state.fails + 1 or 1
  state.since, state.epoch, state.hold = now, math.max(now, newest), now + ADAPT_HOLD_PERIODS * period
  return true
end

-- Before this slot (µs) adapt_served changes nothing, so the log need not be counted.
local function adapt_due(state, period)
  if state.good < state.level or state.fails > 0 then return state.since + period end
  return state.base < ADAPT_PPM and state.hold or ADAPT_NEVER_US
end

-- Changes `state` at a grant of the slot `at`; false if nothing changed. `used` is the share in the limit's span that ends
-- at `at`, this grant included. For a token bucket it is the level if the grant had to wait, else 0.
-- The level rises after each full window that was busy and clean: half-way to `top`, later in steps beyond it. Steps
-- double until a refusal, so a restored quota is found in a few windows. One that stays cut costs one refusal a hold.
local function adapt_served(state, at, used, unit, period)
  local level = state.level
  if at < adapt_due(state, period) or used < adapt_part(level, ADAPT_BUSY) then return false end
  local held, gap, rise, step = at >= state.hold, state.top - level, nil, 0
  state.good, state.fails = level, 0
  if held then state.base = level end
  if level >= ADAPT_PPM then
    state.step = 0
    return true
  elseif state.step > 0 then
    rise, step = 2 * state.step, 2 * state.step
  elseif gap > math.max(unit, adapt_part(level, ADAPT_CLOSE)) then
    rise = math.floor((gap + 1) / 2)
  elseif held then
    rise = math.max(ADAPT_LEAST_STEP, math.min(unit, ADAPT_MOST_STEP))
    step = rise
  else
    return true
  end
  state.level, state.step = math.min(ADAPT_PPM, level + rise), step
  state.top, state.since, state.hold = math.max(state.top, state.level), at, at + ADAPT_HOLD_PERIODS * period
  return true
end
