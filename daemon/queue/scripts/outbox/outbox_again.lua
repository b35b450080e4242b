-- Make a given-up message due again: a person's order.
-- KEYS  1 prefix
-- ARGS  id, letter (the entry of its dead letter)
-- Returns  1, or 0 when its content has ended and nothing was changed
-- One step with the removal of the dead letter, so that two people who do it send the message once.
-- @include base
-- @include outbox

if redis.call('EXISTS', message_key(ARGS.id)) == 0 then return 0 end
if redis.call('XDEL', DEAD, ARGS.letter) == 1 then
  redis.call('HSET', message_key(ARGS.id), 'attempts', 0, 'taken', '')
  offer_message(ARGS.id)
  redis.call('PUBLISH', BELL, 'callback')
end
return 1
