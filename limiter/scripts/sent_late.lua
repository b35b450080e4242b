-- A call is sent only now, later than its slot: its place in the logs moves to this moment.
--
-- KEYS   1 clock   2.. logs
-- ARGV   1 test clock (µs or '')   2 grant id   3.. the cost in each log, in their order
-- Returns how many entries were moved.
--
-- Why: the provider counts from the arrival. An entry that stays at its slot leaves our window while the call is
-- still in the provider's, and the next call through would be one too many.
-- Why atomic: between reading an entry's place and writing the new one it may be given back.
-- @include clock
local now = clock_read(redis.call('GET', KEYS[1]), ARGV[1], '', '').now
local moved = 0
for i = 2, #KEYS do
  for unit = 1, tonumber(ARGV[i + 1]) do
    local member = ARGV[2] .. ':' .. unit
    local slot = redis.call('ZSCORE', KEYS[i], member)
    if slot and tonumber(slot) < now then
      redis.call('ZADD', KEYS[i], text(now), member)
      moved = moved + 1
    end
  end
end
return moved
