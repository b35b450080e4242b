-- Send a message again that was given up, because a person asks for it.
-- KEYS  1 prefix
-- ARGV  1 id  2 entry of its dead letter
-- Returns  1, or 0 when its content has ended and nothing was changed
-- One step with the removal of the dead letter, so that two people send it once.
-- @include base
-- @include events

local id = ARGV[1]
if redis.call('EXISTS', message_key(id)) == 0 then return 0 end
if redis.call('XDEL', P .. ':dead', ARGV[2]) == 1 then
  redis.call('HSET', message_key(id), 'attempts', 0, 'taken', '')
  redis.call('PEXPIRE', message_key(id), MESSAGE_TTL_MS)
  redis.call('ZADD', P .. ':outbox', NOW_US, id)
  redis.call('PUBLISH', P .. ':bell', 'callback')
end
return 1
