-- The provider said no: nobody sends under this quota until the later of the pause known and the pause asked.
--
-- KEYS   1 clock   2 cooldown
-- ARGV   1 test clock (µs or '')   2 pause (µs) from now   3 reason
-- Returns the end of the pause (µs).
--
-- Why atomic: two replicas that report one refusal must not shorten each other's pause. The generation counts
-- reports, so a replica can see that something happened since it last looked; it outlives the pause.
-- @include clock
local GENERATION_KEPT_US = 3600000000

local now = clock_read(redis.call('GET', KEYS[1]), ARGV[1], '', '').now
local ends, generation, reason = now + tonumber(ARGV[2]), 0, ARGV[3]
local stored = redis.call('GET', KEYS[2])
if stored then
  local old_end, old_generation, old_reason = string.match(stored, '^(%S+) (%S+) (.*)$')
  generation = tonumber(old_generation)
  if tonumber(old_end) > ends then ends, reason = tonumber(old_end), old_reason end
end
redis.call('SET', KEYS[2], string.format('%.0f %.0f %s', ends, generation + 1, reason),
  'PX', ttl_ms(ends - now + GENERATION_KEPT_US))
return text(ends)
