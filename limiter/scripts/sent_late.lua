-- Move a call that is sent late, after its slot, to the present moment in the books.
--
-- KEYS   1 clock   2 the request's record   3.. books
-- ARGV   1 test clock (µs or '')   2 grant id   then threes, one a book: kind, cost, for how long (µs) a use counts there
-- Returns how many books were changed.
--
-- The provider counts from the arrival. An entry that stays at its slot leaves our window while the call is still in the
-- provider's, and the next call would be one too many. An entry that has already left comes back.
-- The record names the charged field of slices and windows by the clock; without it the call counts in both. If a bucket
-- no longer keeps the charge, so many followed that it does not matter.
-- Why atomic: the call may be given back between the read of its old slot and the write of its new one.
-- @include clock
-- @include ttl
-- @include undo
local clock = clock_read(redis.call('GET', KEYS[1]), ARGV[1], '', '')
local now, grant = clock.now, ARGV[2]

local record = redis.call('GET', KEYS[2])
if record and string.match(record, '^%S+ (%S+)') ~= grant then record = nil end

-- True if the member's slot was earlier; also for an absent member that is to come back.
local function move(key, member, back)
  local slot = redis.call('ZSCORE', key, member)
  if slot and tonumber(slot) >= now or not slot and not back then return false end
  redis.call('ZADD', key, text(now), member)
  return true
end

local function move_field(key, cost, at)
  local width = redis.call('HGET', key, 'width')
  if not width then return false end
  local number = text(math.floor(at / tonumber(width)))
  local field, from = charged_field(record, key)
  if field and tonumber(field) >= tonumber(number) then return false end
  if field then
    undo_field(key, field, cost)
    record = string.sub(record, 1, from) .. number .. string.sub(record, from + #field + 1)
    redis.call('SET', KEYS[2], record, 'KEEPTTL')
  end
  redis.call('HINCRBY', key, number, cost)
  return true
end

local changed = 0
for i = 3, #KEYS do
  local first = 3 * (i - 2)
  local key, kind, cost = KEYS[i], ARGV[first], tonumber(ARGV[first + 1])
  local moved = false
  if kind == 'log' then
    for unit = 1, cost do moved = move(key, grant .. ':' .. unit, true) or moved end
  elseif kind == 'tokens' then
    moved = move(key, grant .. ':' .. text(cost), false)
  else
    moved = move_field(key, cost, kind == 'fixed' and clock.wall or now)
  end
  -- The key must not expire while its units count.
  if moved then
    keep_for(key, tonumber(ARGV[first + 2]))
    changed = changed + 1
  end
end
return changed
