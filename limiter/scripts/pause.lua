-- An operator pauses a quota, until a time or until it is resumed; the last word counts.
--
-- KEYS   1 pause
-- ARGV   1 test clock (µs or '')   2 end (µs since the epoch; 0 is open)   3 reason
-- Returns 1.
--
-- Why a script: the TTL is counted from the server's time, of which the end is a point. A pause without an
-- end has no TTL: what an operator stopped must not start by itself.
-- @include clock
local now, ends = server_us(ARGV[1]), tonumber(ARGV[2])
local value = ARGV[2] .. ' ' .. ARGV[3]
if ends == 0 then
  redis.call('SET', KEYS[1], value)
else
  redis.call('SET', KEYS[1], value, 'PX', ttl_ms(math.max(0, ends - now)))
end
return 1
