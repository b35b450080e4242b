-- @include numbers
-- Windows by the clock: the provider begins a new one at every multiple of the period since 1970. A hash of the units
-- granted in each window, by its number, and the period (µs) in `width`.
--
-- Nothing is granted within the guard at either end of a window, so the provider's clock may differ from the server's by
-- that much. The guards cost no quota, since all of it fits between them.
local function fixed_number(read, wall)
  return math.floor(wall / read.period)
end

local function fixed_load(key, period, wall)
  local read, flat = {used = {}, period = period}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do read.used[flat[i]] = tonumber(flat[i + 1]) end
  -- The period was changed, see changed.lua.
  if (read.used.width or period) ~= period then read.used, read.stale = {}, true end
  return read
end

local function fixed_next(read, cost, count, guard, offset, slot)
  local wall = slot - offset
  local number = fixed_number(read, wall)
  while wall > (number + 1) * read.period - guard or (read.used[text(number)] or 0) + cost > count do
    number = number + 1
    wall = math.max(wall, number * read.period)
  end
  return math.max(wall, number * read.period + guard) + offset
end

-- Returns the field that was charged.
local function fixed_charge(key, read, cost, offset, slot, wall)
  local number, present = fixed_number(read, slot - offset), fixed_number(read, wall)
  for field in pairs(read.used) do
    if field ~= 'width' and tonumber(field) < present - 1 then redis.call('HDEL', key, field) end
  end
  redis.call('HSET', key, 'width', text(read.period))
  redis.call('HINCRBY', key, text(number), cost)
  keep_for(key, (number + 1) * read.period - wall)
  return text(number)
end
