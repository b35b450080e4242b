-- @include numbers
-- Take a charge out of one book; each function returns whether it was there. A log and slices may have been made from
-- each other since the charge, see changed.lua.

-- The key of a unit's slices for that of its log, and the other way round.
local function other_window(key)
  local slices, found = string.gsub(key, ':log:(%l+)$', ':slices:%1')
  return found == 1 and slices or (string.gsub(key, ':slices:(%l+)$', ':log:%1'))
end

-- The request's record names the charged field of slices, days and windows by the clock.
local function charged_field(record, key)
  local from = record and select(2, string.find(record, ' ' .. key .. '=', 1, true))
  return from and string.match(record, '^%S+', from + 1), from
end

local function undo_field(key, field, cost)
  if not field then return false end
  if redis.call('HINCRBY', key, field, -cost) <= 0 then redis.call('HDEL', key, field) end
  return true
end

local function undo_log(key, record, grant, cost)
  local slot = redis.call('ZSCORE', key, grant .. ':1')
  local slice = charged_field(record, other_window(key))
  if slot then
    for unit = 1, cost do redis.call('ZREM', key, grant .. ':' .. unit) end
    -- Slices that were made from this log count the units too.
    local width = record and not slice and redis.call('HGET', other_window(key), 'width')
    if width then undo_field(other_window(key), text(math.floor(tonumber(slot) / tonumber(width))), cost) end
    return true
  end
  if not slice then return false end
  -- A log that was made from slices counts the units after their slot.
  local left = cost
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, string.match(record, '^%S+'), '+inf')) do
    if left > 0 and string.match(member, '^@(%d+):') == slice then left = left - redis.call('ZREM', key, member) end
  end
  return left < cost
end

local function undo_tokens(key, grant, cost)
  return redis.call('ZREM', key, grant .. ':' .. text(cost)) == 1
end

-- The kind in a book's name decides how its charges are undone.
local function undo_charge(key, record, grant, cost)
  local book = string.match(key, ':(%l+):%l+$')
  if book == 'log' then return undo_log(key, record, grant, cost) end
  if book == 'tokens' then return undo_tokens(key, grant, cost) end
  return undo_field(key, charged_field(record, key), cost)
end
