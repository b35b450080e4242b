-- Prolong leases: one call for all that a replica holds, or for one that the provider has accepted.
--
-- KEYS   1 clock   2.. leases of the quotas involved
-- ARGV   1 test clock (µs or '')   2 lease (µs)   3 the epoch that the caller knows or ''
--        4.. fours: key index, grant id, request id and holder, weight
-- Returns the epoch, then the numbers (1 is the first four) of the unknown leases.
--
-- Why atomic: a lease that is read, then released, then written would hold a place for ever. For the same reason a renewal
-- uses XX and never creates a lease. An expired lease that is still kept comes back: its call runs at the provider, so it
-- must count. Only after a loss of the state do renewals create leases, since only their holders know of the calls.
-- @include clock
-- @include leases
local stored = redis.call('GET', KEYS[1])
local clock = clock_read(stored, ARGV[1], ARGV[3], '')
local now, lease = clock.now, tonumber(ARGV[2])
local expiry = text(now + lease)
local recovers = clock.lost > 0 and now - clock.lost <= lease
local lost = {stored and clock.epoch or ARGV[3]}
-- A server without free memory refuses ZADD, but not in a script that has already written. So write first with a ZREM that
-- removes nothing: renewed leases need no memory, and their calls are running.
if KEYS[2] then redis.call('ZREM', KEYS[2], '') end
for i = 4, #ARGV, 4 do
  local key, grant, owner = KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2]
  if redis.call('ZSCORE', key, lease_member(grant, 1, owner)) or recovers then
    for unit = 1, tonumber(ARGV[i + 3]) do
      local member = lease_member(grant, unit, owner)
      local old = redis.call('ZSCORE', key, member)
      -- Never end a lease earlier than before: the provider may need longer than one lease.
      if not old or tonumber(old) < now + lease then redis.call('ZADD', key, expiry, member) end
    end
  else
    lost[#lost + 1] = i / 4
  end
end
for i = 2, #KEYS do keep_for(KEYS[i], lease) end
if stored then clock_write(KEYS[1], clock) end
return lost
