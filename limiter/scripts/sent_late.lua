-- A call is sent only now, later than its slot: its place in the logs moves to this moment.
--
-- KEYS   logs
-- ARGV   1 test clock (µs or '')   2 grant id   3.. the cost in each log, in their order
-- Returns how many entries were moved.
--
-- Why: the provider counts from the arrival. An entry that stays at its slot leaves our window while the call is
-- still in the provider's, and the next call through would be one too many.
-- Why atomic: between reading an entry's place and writing the new one it may be given back.
-- @include now
local now = time_us(ARGV[1])
local moved = 0
for i, key in ipairs(KEYS) do
  for unit = 1, tonumber(ARGV[i + 2]) do
    local member = ARGV[2] .. ':' .. unit
    local slot = redis.call('ZSCORE', key, member)
    if slot and tonumber(slot) < now then
      redis.call('ZADD', key, text(now), member)
      moved = moved + 1
    end
  end
end
return moved
