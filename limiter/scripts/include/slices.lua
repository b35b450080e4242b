-- @include numbers
-- A strict window too large to keep each unit: a hash of the units in each slice of it, by the slice's number since 1970,
-- and the length of a slice (µs) in `width`; `logged` is described in changed.lua.
--
-- A use may be at the start or the end of its slice, so a window may touch SLICES + 1 slices. So that many slices in a row
-- never exceed the count. That costs 1 / (SLICES + 1) of the rate, and no burst.
local SLICES = 256

-- The hash as a table of numbers, read once a call: uses by slice, and `last`, the number of the latest slice. Slices of
-- another width are those of a period that was changed; see changed.lua for `stale`.
local function slices_load(key, span)
  local flat, width, stale = redis.call('HGETALL', key), math.ceil(span / SLICES), false
  local read = {width = width, last = 0, fields = #flat}
  for i = 1, #flat, 2 do
    local slice, number = tonumber(flat[i]), tonumber(flat[i + 1])
    if slice then
      read[slice], read.last = number, math.max(read.last, slice)
    elseif flat[i] == 'width' then
      stale = number ~= width
    else
      read.logged = number
    end
  end
  return stale and {width = width, last = 0, fields = 0, stale = true} or read
end

-- The units in a slice and all later ones.
local function slices_since(read, oldest)
  local used = 0
  for slice, uses in pairs(read) do
    if type(slice) == 'number' and slice >= oldest then used = used + uses end
  end
  return used
end

-- The earliest slot from `slot` on, with at most `most` units in its slice (nil: no such bound).
local function slices_next(read, cost, count, span, slot, most)
  local run = math.ceil(span / read.width)
  local first = math.floor(slot / read.width)
  local taken, start = first, first
  local sum = 0
  for slice = first - run, first - 1 do sum = sum + (read[slice] or 0) end
  -- `sum` is over the run of slices that ends at `last`; a run that is too full bars all its slices.
  local last = first
  while last <= taken + run and last <= read.last + run do
    sum = sum + (read[last] or 0)
    if sum + cost > count then
      taken = last + 1
    elseif most and last == taken and (read[last] or 0) + cost > math.max(most, cost) then
      taken = last + 1
    end
    sum = sum - (read[last - run] or 0)
    last = last + 1
  end
  return taken == start and slot or taken * read.width
end

-- `logged` is the span of the log that is charged beside, or 0. Returns the field that was charged.
local function slices_charge(key, read, cost, span, slot, now, logged)
  local slice = text(math.floor(slot / read.width))
  if read.fields == 0 then
    redis.call('HSET', key, 'width', text(read.width))
  elseif read.fields > 4 * SLICES then
    local oldest = math.floor((now - span) / read.width) - 1
    for number in pairs(read) do
      if type(number) == 'number' and number < oldest then redis.call('HDEL', key, text(number)) end
    end
  end
  redis.call('HINCRBY', key, slice, cost)
  if (read.logged or 0) ~= logged then redis.call('HSET', key, 'logged', text(logged)) end
  keep_for(key, slot - now + span + read.width)
  return slice
end
