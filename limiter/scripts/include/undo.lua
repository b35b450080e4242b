-- @include text
-- Take a charge out of one book again; each returns whether it was there.

local function undo_window(key, grant, cost)
  local undone = false
  for unit = 1, cost do undone = redis.call('ZREM', key, grant .. ':' .. unit) == 1 or undone end
  return undone
end

local function undo_tokens(key, grant, cost)
  return redis.call('ZREM', key, grant .. ':' .. text(cost)) == 1
end

-- Of slices, days and windows of a known phase the record of the request says which field was charged.
local function undo_field(key, record, cost)
  local from = select(2, string.find(record, ' ' .. key .. '=', 1, true))
  local field = from and string.match(record, '^%S+', from + 1)
  if not field then return false end
  if redis.call('HINCRBY', key, field, -cost) <= 0 then redis.call('HDEL', key, field) end
  return true
end

-- Whatever the book is: its name says how its charges are kept.
local function undo_charge(key, record, grant, cost)
  local book = string.match(key, ':(%l+):%l+$')
  if book == 'log' then return undo_window(key, grant, cost) end
  if book == 'tokens' then return undo_tokens(key, grant, cost) end
  return record and undo_field(key, record, cost)
end
