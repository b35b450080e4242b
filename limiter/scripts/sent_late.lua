-- A call is sent only now, later than its slot: its place in the books moves to this moment.
--
-- KEYS   1 clock   2 the request's record   then L logs, T buckets, the rest slices
-- ARGV   1 test clock (µs or '')   2 grant id   3 L   4 T   5.. the cost in each of KEYS[3..], in their order
-- Returns how many entries were moved.
--
-- Why: the provider counts from the arrival. An entry that stays at its slot leaves our window while the call is
-- still in the provider's, and the next call through would be one too many.
-- Of slices the record says which one was charged; where it is forgotten, the call counts in both.
-- Why atomic: between reading an entry's place and writing the new one it may be given back.
-- Each key lives as much longer as its entries moved: it must not die while they count.
-- @include clock
-- @include slices
local now = clock_read(redis.call('GET', KEYS[1]), ARGV[1], '', '').now
local grant, logs, buckets = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local moved = 0

-- How late (µs) it is, as far as it was known.
local function move(key, member)
  local slot = tonumber(redis.call('ZSCORE', key, member) or now)
  if slot >= now then return 0 end
  redis.call('ZADD', key, text(now), member)
  moved = moved + 1
  return now - slot
end

local function live_on(key, late)
  if late > 0 then redis.call('PEXPIRE', key, text(redis.call('PTTL', key) + math.ceil(late / 1000))) end
end

local record = redis.call('GET', KEYS[2])
if record and string.match(record, '^%S+ (%S+)') ~= grant then record = nil end
for i = 3, #KEYS do
  local key, cost = KEYS[i], tonumber(ARGV[i + 2])
  if i <= logs + 2 then
    local late = 0
    for unit = 1, cost do late = math.max(late, move(key, grant .. ':' .. unit)) end
    live_on(key, late)
  elseif i <= logs + buckets + 2 then
    live_on(key, move(key, grant .. ':' .. text(cost)))
  else
    local width = redis.call('HGET', key, 'width')
    local slice = width and text(math.floor(now / tonumber(width)))
    local from = record and select(2, string.find(record, ' ' .. key .. '=', 1, true))
    local field = from and string.match(record, '^%S+', from + 1)
    if slice and field ~= slice then
      if field and redis.call('HINCRBY', key, field, -cost) <= 0 then redis.call('HDEL', key, field) end
      redis.call('HINCRBY', key, slice, cost)
      keep_for(key, (SLICES + 2) * tonumber(width))
      if field then
        record = record:gsub('( ' .. key:gsub('%p', '%%%0') .. '=)%S+', '%1' .. slice)
        redis.call('SET', KEYS[2], record, 'KEEPTTL')
      end
      moved = moved + 1
    end
  end
end
return moved
