-- Take messages that are due for delivery: until the lease ends they are nobody else's.
-- KEYS  1 prefix
-- ARGV  1 most messages  2 lease (us)
-- Returns  { microseconds until the next one is due, or -1; messages given up here; messages }, a message being
--          { id, taken, url, secret's name, body, attempts }
-- One step: of all replicas one gets a message, and `taken` fences it when its lease has ended.
-- @include base
-- @include events

local function give_up(id, head, event, attempts, message)
  redis.call('ZREM', P .. ':outbox', id)
  local err = cjson.encode({ kind = 'callback_failed', message = message })
  bury('callback_failed', err, attempts, head, { 'callback', id, 'event', event })
end

local messages, given_up = {}, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. ':outbox', '-inf', NOW_US, 'LIMIT', 0, ARGV[1])) do
  local f = redis.call('HMGET', message_key(id), 'record', 'url', 'secret', 'body', 'attempts', 'head', 'event')
  if not f[1] then
    given_up = given_up + 1
    give_up(id, '', '', 0, 'No worker could send this callback for so long that its content has ended.')
  elseif redis.call('HGET', f[1], 'callback_events') == '' then
    given_up = given_up + 1
    give_up(id, f[6], f[7], f[5], 'Its receiver has said before (HTTP status 410) that it wants no more callbacks.')
  else
    redis.call('ZADD', P .. ':outbox', int(NOW + tonumber(ARGV[2])), id)
    redis.call('HSET', message_key(id), 'taken', NOW_US)
    redis.call('PEXPIRE', message_key(id), MESSAGE_TTL_MS)
    messages[#messages + 1] = { id, NOW_US, f[2], f[3], f[4], f[5] }
  end
end

local wait, head = -1, redis.call('ZRANGE', P .. ':outbox', 0, 0, 'WITHSCORES')
if head[2] then wait = math.max(0, tonumber(head[2]) - NOW) end
return { int(wait), given_up, messages }
