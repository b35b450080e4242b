-- End the leases of a call that has ended, or a holder's wait for such leases; charges stay.
--
-- KEYS   1 clock   2 the request's record   then pairs: leases, the line of holders that wait for them
-- ARGV   1 test clock (µs or '')   2 grant id   3 request id and holder   4 channel of the doorbell
--        5 the holder that leaves the line, or ''   6.. the weight in each of the leases
-- Returns the freed weight; 0 if it was freed or had vanished before (so it may be repeated).
--
-- The bell says `slot` and names the holders whose turn it is. So a freed place wakes one replica and not the whole fleet.
-- Why atomic: the bell rings exactly when there is room. The record goes with the lease, so the same request id is a new
-- call from then on and never a grant without a lease.
-- @include clock
-- @include leases
local grant, owner, leaver = ARGV[2], ARGV[3], ARGV[5]
record_end(KEYS[2], grant)

local now = clock_read(redis.call('GET', KEYS[1]), ARGV[1], '', '').now
local freed, names = 0, {}
for i = 3, #KEYS, 2 do
  local free = lease_end(KEYS[i], grant, owner, tonumber(ARGV[(i + 9) / 2]))
  freed = freed + free
  local waited = leaver ~= '' and redis.call('HGET', KEYS[i + 1], leaver)
  if waited then
    redis.call('HDEL', KEYS[i + 1], leaver)
    -- Places may have been kept for it.
    free = free + line_read(waited).weight
  end
  line_call(KEYS[i], KEYS[i + 1], free, true, now, '', names)
end
line_ring(ARGV[4], names)
return freed
