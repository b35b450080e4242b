-- What became of one try to deliver a message.
-- KEYS  1 prefix
-- ARGV  1 id  2 taken, as the taking told it  3 delivered | retry | postponed | failed | gone  4 delay (us)
--       5 error (JSON; '' without one)
-- Outcomes  delivered  it is over, whoever says so
--           retry      it costs a try, and is due after the delay
--           postponed  it was not tried
--           failed     a dead letter; the message stays for its time to live, so that a person may send it again
--           gone       as failed, and the receiver wants no more: the record's callback is ended
-- Returns  1, or 0 when the message was not the caller's any more and nothing was changed
-- One step: a try is counted once, and a message that is given up has its dead letter.
-- @include base
-- @include events

local id, outcome = ARGV[1], ARGV[3]
local key, outbox = message_key(id), P .. ':outbox'

if outcome == 'delivered' then
  redis.call('ZREM', outbox, id)
  return redis.call('DEL', key)
end
local f = redis.call('HMGET', key, 'taken', 'record', 'head', 'event', 'attempts')
if not f[1] or f[1] ~= ARGV[2] or not redis.call('ZSCORE', outbox, id) then return 0 end
redis.call('HSET', key, 'taken', '')
if outcome == 'postponed' then
  redis.call('ZADD', outbox, int(NOW + tonumber(ARGV[4])), id)
  return 1
end
local attempts = redis.call('HINCRBY', key, 'attempts', 1)
if outcome == 'retry' then
  redis.call('ZADD', outbox, int(NOW + tonumber(ARGV[4])), id)
  return 1
end
redis.call('ZREM', outbox, id)
bury('callback_failed', ARGV[5], attempts, f[3], { 'callback', id, 'event', f[4] })
if outcome == 'gone' and redis.call('EXISTS', f[2]) == 1 then redis.call('HSET', f[2], 'callback_events', '') end
return 1
