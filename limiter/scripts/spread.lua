-- Note a replica's report how unevenly its calls arrive after their slots; the largest figure of all replicas counts.
--
-- KEYS   1 spread
-- ARGV   1 spread (µs)
-- Returns the figure that counts.
--
-- Why atomic: the larger of two reports must stay. It expires a minute after its last report, so a dead replica does not
-- widen the guards for ever.
local KEPT_MS = 60000
local mine, known = tonumber(ARGV[1]), tonumber(redis.call('GET', KEYS[1]) or 0)
if mine >= known then redis.call('SET', KEYS[1], ARGV[1], 'PX', KEPT_MS) end
return math.max(mine, known)
