-- A call is sent only now, later than its slot: its place in the books moves to this moment.
--
-- KEYS   1 clock   2 the request's record   then L logs, as many buckets, slices and windows of a known phase
-- ARGV   1 test clock (µs or '')   2 grant id   3 L   4.. the cost in each of KEYS[3..], in their order
-- Returns how many entries were moved.
--
-- Why: the provider counts from the arrival. An entry that stays at its slot leaves our window while the call is
-- still in the provider's, and the next call through would be one too many.
-- Of slices and windows the record says which one was charged; where it is forgotten, the call counts in both.
-- Why atomic: between reading an entry's place and writing the new one it may be given back.
-- @include clock
local clock = clock_read(redis.call('GET', KEYS[1]), ARGV[1], '', '')
local now = clock.now
local grant, logs = ARGV[2], tonumber(ARGV[3])
local moved = 0

local function move(key, member)
  local slot = redis.call('ZSCORE', key, member)
  if slot and tonumber(slot) < now then
    redis.call('ZADD', key, text(now), member)
    moved = moved + 1
  end
end

local record = redis.call('GET', KEYS[2])
if record and string.match(record, '^%S+ (%S+)') ~= grant then record = nil end
for i = 3, #KEYS do
  local key, cost = KEYS[i], tonumber(ARGV[i + 1])
  if i <= logs + 2 then
    for unit = 1, cost do move(key, grant .. ':' .. unit) end
  elseif i <= 2 * logs + 2 then
    move(key, grant .. ':' .. text(cost))
  else
    local width = redis.call('HGET', key, 'width')
    local at = i <= 3 * logs + 2 and now or clock.wall
    local slice = width and text(math.floor(at / tonumber(width)))
    local from = record and select(2, string.find(record, ' ' .. key .. '=', 1, true))
    local field = from and string.match(record, '^%S+', from + 1)
    if slice and field ~= slice then
      if field and redis.call('HINCRBY', key, field, -cost) <= 0 then redis.call('HDEL', key, field) end
      redis.call('HINCRBY', key, slice, cost)
      if field then
        record = record:gsub('( ' .. key:gsub('%p', '%%%0') .. '=)%S+', '%1' .. slice)
        redis.call('SET', KEYS[2], record, 'KEEPTTL')
      end
      moved = moved + 1
    end
  end
end
return moved
