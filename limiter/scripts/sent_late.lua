-- A call is sent only now, later than its slot: its place in the books moves to this moment.
--
-- KEYS   1 clock   2 the request's record   3.. books
-- ARGV   1 test clock (µs or '')   2 grant id   then fours: key index, kind, cost, how long (µs) a use counts there
-- Returns how many books were changed.
--
-- Why: the provider counts from the arrival. An entry that stays at its slot leaves our window while the call is
-- still in the provider's, and the next call through would be one too many. One that has left already comes back.
-- Of slices and windows of a known phase the record says which one was charged; where it is forgotten, the call
-- counts in both. A bucket that has forgotten the charge has had so many since that it does not matter.
-- Why atomic: between reading an entry's place and writing the new one it may be given back.
-- @include clock
-- @include slices
local FIELDS = 4
local clock = clock_read(redis.call('GET', KEYS[1]), ARGV[1], '', '')
local now, grant = clock.now, ARGV[2]

local record = redis.call('GET', KEYS[2])
if record and string.match(record, '^%S+ (%S+)') ~= grant then record = nil end

-- True if the member's place was earlier, or, where it is to come back, nowhere.
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
  local from = record and select(2, string.find(record, ' ' .. key .. '=', 1, true))
  local field = from and string.match(record, '^%S+', from + 1)
  if field and tonumber(field) >= tonumber(number) then return false end
  if field then
    if redis.call('HINCRBY', key, field, -cost) <= 0 then redis.call('HDEL', key, field) end
    record = string.sub(record, 1, from) .. number .. string.sub(record, from + #field + 1)
    redis.call('SET', KEYS[2], record, 'KEEPTTL')
  end
  redis.call('HINCRBY', key, number, cost)
  return true
end

local changed = 0
for i = 3, #ARGV, FIELDS do
  local key, kind, cost = KEYS[tonumber(ARGV[i])], ARGV[i + 1], tonumber(ARGV[i + 2])
  local moved = false
  if kind == 'log' then
    for unit = 1, cost do moved = move(key, grant .. ':' .. unit, true) or moved end
  elseif kind == 'tokens' then
    moved = move(key, grant .. ':' .. text(cost), false)
  else
    moved = move_field(key, cost, kind == 'fixed' and clock.wall or now)
  end
  -- It must not die while they count.
  if moved then
    keep_for(key, tonumber(ARGV[i + 3]))
    changed = changed + 1
  end
end
return changed
