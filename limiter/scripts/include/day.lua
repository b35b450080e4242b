-- @include text
-- @include ttl
-- A calendar day: a hash of how many units were granted in each day, by the µs at which the day began.
--
-- For DAY_MARGIN_US before and after midnight nothing is granted: it is not known to the second on which side the
-- provider's clock will see such a call.
local DAY_MARGIN_US = 2000000

-- `midnights` begin with yesterday's, as the caller's calendar has them.
local function day_load(key, midnights)
  local read = {starts = {}, used = {}}
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do read.used[flat[i]] = tonumber(flat[i + 1]) end
  for start in string.gmatch(midnights, '%S+') do read.starts[#read.starts + 1] = start end
  return read
end

-- The number of the day that a time is in; nil beyond the calendar.
local function day_of(read, wall)
  for i = 1, #read.starts - 1 do
    if tonumber(read.starts[i]) <= wall and wall < tonumber(read.starts[i + 1]) then return i end
  end
end

-- The earliest slot from `slot` on. If the calendar ends before there is one, a slot after its last day.
local function day_next(read, cost, count, offset, slot)
  local wall = slot - offset
  local i = day_of(read, wall)
  while i and i < #read.starts do
    local opens, closes = tonumber(read.starts[i]) + DAY_MARGIN_US, tonumber(read.starts[i + 1]) - DAY_MARGIN_US
    if wall <= closes and (read.used[read.starts[i]] or 0) + cost <= count then return math.max(wall, opens) + offset end
    i = i + 1
  end
  return math.max(slot, tonumber(read.starts[#read.starts]) + offset)
end

-- Returns the field that was charged.
local function day_charge(key, read, cost, offset, slot, wall)
  local i = day_of(read, slot - offset)
  for start in pairs(read.used) do
    if tonumber(start) < tonumber(read.starts[1]) then redis.call('HDEL', key, start) end
  end
  redis.call('HINCRBY', key, read.starts[i], cost)
  keep_for(key, tonumber(read.starts[i + 1]) - wall)
  return read.starts[i]
end
