-- End the leases of a call that has ended; its charges stay.
--
-- KEYS   1 clock   2 the request's record   then pairs: leases, the holders that wait for them
-- ARGV   1 test clock (µs or '')   2 grant id   3 request id and holder   4 channel of the doorbell
--        5.. the weight in each of the leases
-- Returns the freed weight; 0 if it was freed or had vanished before (so it may be repeated).
--
-- The bell says `slot` and names the holders that have waited longest for the freed places; without names it is for all
-- replicas. So a freed place wakes one replica and not the whole fleet.
-- Why atomic: the bell rings exactly when there is room. The record goes with the lease, so the same request id is a new
-- call from then on and never a grant without a lease.
-- @include clock
-- @include leases
local grant, owner = ARGV[2], ARGV[3]
local record = redis.call('GET', KEYS[2])
if record and string.match(record, '^%S+ (%S+)') == grant then redis.call('DEL', KEYS[2]) end

local now = clock_read(redis.call('GET', KEYS[1]), ARGV[1], '', '').now
local freed, message, called = 0, 'slot', {}
local for_all = false
for i = 3, #KEYS, 2 do
  local here = 0
  for unit = 1, tonumber(ARGV[(i + 7) / 2]) do
    here = here + redis.call('ZREM', KEYS[i], lease_member(grant, unit, owner))
  end
  freed = freed + here
  local waiters = here > 0 and waiting_list(KEYS[i + 1], now) or {}
  for_all = for_all or here > 0 and #waiters == 0
  for _, waiter in ipairs(waiters) do
    if here <= 0 then break end
    if not called[waiter.holder] then message = message .. ' ' .. waiter.holder end
    called[waiter.holder] = true
    here = here - waiter.weight
  end
end
if freed > 0 then redis.call('PUBLISH', ARGV[4], for_all and 'slot' or message) end
return freed
