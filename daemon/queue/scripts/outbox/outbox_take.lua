-- Take messages that are due for delivery; the caller owns them until the lease ends.
-- KEYS  1 prefix
-- ARGS  most: messages a call, lease_us
-- Returns  { microseconds until the next one is due, or -1; messages given up here; messages }; a message is
--          { id, taken, url, secret's name, body, attempts }
-- One step: only one replica gets a message, and `taken` fences that replica when its lease has ended.
-- @include base
-- @include events

local given_up = 0
local function give_up(id, message, reason)
  given_up = given_up + 1
  redis.call('ZREM', OUTBOX, id)
  local err = cjson.encode({ kind = 'callback_failed', message = reason })
  bury('callback_failed', err, message.attempts or 0, message.head or '', { 'callback', id, 'event', message.event or '' })
end

local messages = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', OUTBOX, '-inf', NOW_US, 'LIMIT', 0, ARGS.most)) do
  local message = read_hash(message_key(id))
  if not message.record then
    give_up(id, message, 'No worker could send this callback for so long that its content has ended.')
  elseif redis.call('HGET', message.record, 'callback_events') == '' then
    give_up(id, message, 'Its receiver has already replied with HTTP status 410, so it wants no more callbacks.')
  else
    redis.call('ZADD', OUTBOX, int(NOW + ARGS.lease_us), id)
    redis.call('HSET', message_key(id), 'taken', NOW_US)
    redis.call('PEXPIRE', message_key(id), MESSAGE_TTL_MS)
    messages[#messages + 1] = { id, NOW_US, message.url, message.secret, message.body, message.attempts }
  end
end

local next_us = redis.call('ZRANGE', OUTBOX, 0, 0, 'WITHSCORES')[2]
return { next_us and int(math.max(0, tonumber(next_us) - NOW)) or '-1', given_up, messages }
