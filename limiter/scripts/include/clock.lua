-- @include numbers
-- The limiter's own time: the server's, but it never runs backwards. All stored times are in it.
--
-- The clock key is `last offset epoch born lost` (µs; epoch a word):
--   last    the latest time that was written. After a step back, time stands still until the server has caught up
--   offset  added to the server's time. A step back of more than LONGEST_STALL_US is added here instead, so slots,
--           cooldowns and leases stay as far away as before
--   epoch   the name of this life of the state   born  the time of its first charged grant
--   lost    the time of a loss of the state (0: none): a process knew an epoch and found none, or a younger one.
--           Everything before it counts as used. A process that knows none and finds none is the first
local LONGEST_STALL_US = 1000000
-- How long a loss matters, and so the longest time that a limit waits after one.
local LOST_US = 60000000
-- The longest period is 366 days, so no stored time outlives this.
local CLOCK_KEPT_US = 31708800000000

-- The time of this step in integer µs: the server's own, unless a test clock sent one ('' is no test clock).
local function server_us(test_clock)
  if test_clock ~= '' then return tonumber(test_clock) end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- `known` is the epoch that the caller remembers, `fresh` the name of a new one; both are '' if losses do not matter.
-- In the result, `stored`: whether the clock is in Redis; `urgent`: it must be written even if nothing else is.
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
