-- End one try to deliver a message.
-- KEYS  1 prefix
-- ARGS  id, taken (as the taking returned it), outcome, delay_us, error (JSON)
-- Outcomes  delivered  the message ends, even if another replica has taken it since
--           retry      it costs a try, and is due after the delay
--           postponed  it was not tried
--           failed     a dead letter; the message stays for its time to live, so that a person may send it again
--           gone       as failed, and the record's callback ends because the receiver wants no more
-- Returns  1, or 0 when the caller no longer owned the message and nothing was changed
-- One step: a try is counted once, and a message that is given up has its dead letter.
-- @include base
-- @include events

local id, outcome, key = ARGS.id, ARGS.outcome, message_key(ARGS.id)

if outcome == 'delivered' then
  redis.call('ZREM', OUTBOX, id)
  return redis.call('DEL', key)
end
local message = read_hash(key)
if message.taken ~= ARGS.taken or not redis.call('ZSCORE', OUTBOX, id) then return 0 end
redis.call('HSET', key, 'taken', '')
local attempts = outcome == 'postponed' and 0 or redis.call('HINCRBY', key, 'attempts', 1)
if outcome == 'postponed' or outcome == 'retry' then
  redis.call('ZADD', OUTBOX, int(NOW + ARGS.delay_us), id)
  return 1
end
redis.call('ZREM', OUTBOX, id)
bury('callback_failed', ARGS.error, attempts, message.head, { 'callback', id, 'event', message.event })
if outcome == 'gone' and redis.call('EXISTS', message.record) == 1 then
  redis.call('HSET', message.record, 'callback_events', '')
end
return 1
