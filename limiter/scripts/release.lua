-- The call of a grant has ended: its leases end, what it was charged stays.
--
-- KEYS   1 the request's record   2.. leases
-- ARGV   1 grant id   2 lease member   3 channel of the doorbell
-- Returns how many leases were freed; 0 when they were freed or had vanished before (so twice is once).
--
-- Why atomic: the bell rings exactly when there is room, and the record goes with the lease, so the same
-- request id asked again is a new call and never a grant without a lease.
local known = redis.call('GET', KEYS[1])
if known and string.match(known, '^%S+ (%S+)') == ARGV[1] then redis.call('DEL', KEYS[1]) end

local freed = 0
for i = 2, #KEYS do freed = freed + redis.call('ZREM', KEYS[i], ARGV[2]) end
if freed > 0 then redis.call('PUBLISH', ARGV[3], 'slot') end
return freed
