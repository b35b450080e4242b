-- Prolong leases: one call for all that a replica holds.
--
-- KEYS   leases of the quotas involved
-- ARGV   1 test clock (µs or '')   2 lease (µs)   3.. pairs: key index, lease member
-- Returns the numbers (1 is the first pair) of those that are not known any more.
--
-- Why atomic: a lease that is seen, released, and then written would be a ghost that holds a place. Hence also
-- XX: renewing never creates. An expired lease that is still known comes back: its call runs at the provider
-- whether it is counted or not, and counting it is what keeps the next one out.
-- @include now
-- @include ttl
local now, lease = time_us(ARGV[1]), tonumber(ARGV[2])
local expiry = text(now + lease)
local lost = {}
for i = 3, #ARGV, 2 do
  local key, member = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  if redis.call('ZSCORE', key, member) then
    redis.call('ZADD', key, 'XX', 'GT', expiry, member)
  else
    lost[#lost + 1] = (i - 1) / 2
  end
end
for _, key in ipairs(KEYS) do keep_for(key, lease) end
return lost
