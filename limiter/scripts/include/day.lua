-- @include numbers
-- A calendar day: a hash of the units granted in each day, by the day's first µs.
--
-- Within DAY_MARGIN_US of midnight nothing is granted, since the provider's clock may place such a call in either day.
local DAY_MARGIN_US = 2000000

-- `midnights` come from the caller's calendar and begin with yesterday's.
local function day_load(key, midnights)
  local read = {starts = {}, used = {}}
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do read.used[flat[i]] = tonumber(flat[i + 1]) end
  for start in string.gmatch(midnights, '%S+') do read.starts[#read.starts + 1] = start end
  return read
end

-- The number of a time's day; nil outside of the calendar.
local function day_of(read, wall)
  for i = 1, #read.starts - 1 do
    if tonumber(read.starts[i]) <= wall and wall < tonumber(read.starts[i + 1]) then return i end
  end
end

-- The earliest slot from `slot` on; if the calendar has none, a slot after its last day.
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
