-- Pause a quota until a time or until a resume; an operator's last order counts.
--
-- KEYS   1 pause   2 cooldown, see include/quota.lua
-- ARGV   1 test clock (µs or '')   2 end (µs since the epoch; 0 is open)   3 reason   4 channel of the doorbell
--        5 the quota's name   6 1 for a provider's pause: it leaves a pause alone that lasts as long or longer, and the
--        first call after it goes alone, since nobody knows whether the allowance was filled
-- Returns 1 if it was written. The bell says `quota NAME`, which recalls grants that were not sent.
--
-- Why atomic: the TTL counts from the server's time, and a provider's pause must not shorten a pause that an operator
-- sets at the same time. A pause without an end has no TTL, so that it never ends by itself.
-- @include clock
-- @include quota
local now, ends = server_us(ARGV[1]), tonumber(ARGV[2])
local known = tonumber(string.match(redis.call('GET', KEYS[1]) or '', '^(%d+)'))
if ARGV[6] == '1' then
  local cooldown = cooldown_read(redis.call('GET', KEYS[2]))
  cooldown.streak, cooldown.alone = 0, ALONE_MOST_US
  cooldown_write(KEYS[2], cooldown, now)
  keep_for(KEYS[2], ends - now + COOLDOWN_KEPT_US)
end
if ARGV[6] == '1' and known and (known == 0 or ends > 0 and known >= ends) then return 0 end
local value = ARGV[2] .. ' ' .. ARGV[3]
if ends == 0 then
  redis.call('SET', KEYS[1], value)
else
  redis.call('SET', KEYS[1], value, 'PX', ttl_ms(math.max(0, ends - now)))
end
redis.call('PUBLISH', ARGV[4], 'quota ' .. ARGV[5])
return 1
