-- @include text
-- What a quota really grants, learned from grants and refusals: a multiplier on the configured rate. The state is the
-- string `level good base top step fails since epoch hold`; no key is the configured quota itself, never refused.
--
--   level  the multiplier now              good   the last level that carried a full busy window
--   base   the last one held for a hold    top    where a refusal is expected; growth halves the distance to it
--   step   the last rise beyond `top`, 0: none    fails  the cuts since the last clean window
--   since  when the level last changed, 0: never  epoch  the newest slot that had been granted by the last cut
--   hold   when the next look beyond `top` is due
--
-- Levels are ppm of the configured quota, which is the hard ceiling; times are µs of the limiter's clock; all is whole
-- numbers. tests/limiter/learning/model.py is a second implementation, and a test compares the two.
local ADAPT_PPM, ADAPT_LEAST = 1000000, 10000
-- A first refusal after a quiet time may be jitter and costs 3 %; another one before a clean window means that the
-- quota is another one, and costs 30 %. Cuts of 30 % alone would give 7.5 % of the rate away for ever: that is what lies
-- between CUBIC's curve and its plateau from one cut to the next.
local ADAPT_FINE, ADAPT_COARSE = 970000, 700000
-- A window in which a smaller share of the level was used shows nothing about the rest.
local ADAPT_BUSY = 900000
-- Nearer than this to a level that was refused, looking closer costs more refusals than it gains.
local ADAPT_CLOSE = 20000
-- The first step beyond it: one call a window, but not less than a hundredth and not more than a twentieth.
local ADAPT_LEAST_STEP, ADAPT_MOST_STEP = 10000, 50000
local ADAPT_HOLD_PERIODS, ADAPT_FORGIVEN_PERIODS = 10, 3
-- By then a refusal has been reported and has recalled every grant.
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

-- `units` of a configured `count` in ppm; adapt_allowed makes the same units of it.
local function adapt_share(units, count)
  return math.floor(units * ADAPT_PPM / count)
end

-- The units and the span (µs) of a window at this level. The span grows by what rounding the units up would give away:
-- 97 % of 1 a minute is 1 in 62 s.
local function adapt_allowed(level, count, span)
  local scaled = level * count
  local units = math.ceil(scaled / ADAPT_PPM)
  -- A quotient first: the product of all three is more than a double holds exactly.
  return units, math.ceil(span * (units * ADAPT_PPM / scaled))
end

-- The least distance of two slots; `units` and `span` are those of adapt_allowed. Calls that leave in one instant are
-- refused in one instant, before anything is learned from the first. A quota that was never refused may use up its
-- window in half of its time, and need not wait for longer than an answer takes; after a refusal it is spread evenly,
-- which costs no throughput and suits providers that refill continuously, too.
local function adapt_gap(state, units, span)
  local even = math.floor(span / units)
  return state.since > 0 and even or math.min(math.floor(even / 2), ADAPT_ANSWER_US)
end

-- The next level, and where the next refusal is expected. Where fewer calls than allowed had been accepted, their number
-- is the quota. A log as full as allowed shows nothing, and soon after another cut it still holds what was granted
-- before that one; then a rise that failed is taken back, next all rises since the last hold, and a share is cut where
-- there is none. No single refusal costs more than the coarse share, since some are mistaken for a rate's.
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

-- Changes `state` after a refusal for a rate, once for all calls that had been granted by then; false where the refused
-- call belongs to the last cut. Shares are ppm of the configured count; of several limits, of the one with the largest.
--   sent, newest   the slot of the refused call, and the newest slot granted so far
--   used           what had been accepted in the limit's span that ends at `sent`, without the call itself
--   left           the part of it that is still in the provider's window when its own Retry-After is over: all but one of
--                  what it really allows. Both are -1 where nothing can tell (a token bucket keeps no log)
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

-- Changes `state` at a grant of the slot `at`; false where that says nothing new. `used` is what the limit's span that
-- ends there holds, this grant included; of a token bucket, the level itself if the grant had to wait, else 0.
--
-- The level rises after each full window that was busy and clean: half-way to `top`, later in steps beyond it. Steps
-- double as long as none is refused, so a quota that was restored is found in a few windows, and one that was not costs
-- one refusal a hold.
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
