-- @include text
-- Take a charge out of one book; each function returns whether it was there.

local function undo_window(key, grant, cost)
  local undone = false
  for unit = 1, cost do undone = redis.call('ZREM', key, grant .. ':' .. unit) == 1 or undone end
  return undone
end

local function undo_tokens(key, grant, cost)
  return redis.call('ZREM', key, grant .. ':' .. text(cost)) == 1
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

-- The kind in a book's name decides how its charges are undone.
local function undo_charge(key, record, grant, cost)
  local book = string.match(key, ':(%l+):%l+$')
  if book == 'log' then return undo_window(key, grant, cost) end
  if book == 'tokens' then return undo_tokens(key, grant, cost) end
  return undo_field(key, charged_field(record, key), cost)
end
