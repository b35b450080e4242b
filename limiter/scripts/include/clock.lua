-- @include text
-- @include ttl
-- The limiter's own time: the server's, but it never runs backwards. All that is stored counts in it.
--
-- The clock key is `last offset epoch born lost` (µs; epoch a word): `last` is the latest time that was written
-- and `offset` what is added to the server's time. Where the server's clock has stepped back by more than
-- LONGEST_STALL_US the step joins the offset: reservations, cooldowns and leases then are as far away as before,
-- as if all had been shifted by the step. A smaller step stands still instead, until it is caught up.
--
-- `epoch` names this life of the stored state, and `born` is when the first grant was charged. A process that
-- knows an epoch and finds none, or a younger one, has noticed that the state was lost (flush, failover, a restart
-- without persistence): `lost` is when, and everything before it counts as used. A process that knows none and
-- finds none is simply the first.
local LONGEST_STALL_US = 1000000
-- A loss matters for so long; it is also the most that a limit of a long period waits for it.
local LOST_US = 60000000
-- The longest period is 366 days, so nothing that the clock gives a meaning to lives longer.
local CLOCK_KEPT_US = 31708800000000

-- The time of this step in integer µs: the server's own, unless a test clock sent one ('' is no test clock).
local function server_us(test_clock)
  if test_clock ~= '' then return tonumber(test_clock) end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- `known` is the epoch that the caller remembers, `fresh` the name of a new one; both '' where losses do not matter.
-- In the result, `stored`: whether the server knows it; `urgent`: it must be written even if nothing else is.
local function clock_read(stored, test_clock, known, fresh)
  local wall = server_us(test_clock)
  if not stored then
    local lost = known ~= ''
    return {now = wall, wall = wall, offset = 0, epoch = fresh, born = wall, lost = lost and wall or 0, urgent = lost}
  end
  local last, offset, epoch, born, lost = string.match(stored, '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
  local clock = {
    wall = wall, offset = tonumber(offset), epoch = epoch, born = tonumber(born), lost = tonumber(lost), stored = true,
  }
  clock.now = wall + clock.offset
  local step = tonumber(last) - clock.now
  if step > 0 then
    if step > LONGEST_STALL_US then clock.offset, clock.urgent = clock.offset + step, true end
    clock.now = tonumber(last)
  end
  if known ~= '' and known ~= epoch and clock.lost == 0 and clock.now - clock.born < LOST_US then
    clock.lost, clock.urgent = clock.born, true
  end
  return clock
end

local function clock_write(key, clock)
  clock.stored = true
  redis.call('SET', key,
    string.format('%.0f %.0f %s %.0f %.0f', clock.now, clock.offset, clock.epoch, clock.born, clock.lost),
    'PX', ttl_ms(CLOCK_KEPT_US))
end
