-- End a pause of the whole fleet, of one route, or of one batch.
-- KEYS  1 prefix
-- ARGS  scope (fleet | route | batch), name (of the route, or the gid)
-- Returns  resumed | nothing (it was not paused) | unknown (no such batch)
-- One step: the batch's pause ends and its tenant gets an entry in the ring again, or its items would wait for ever.
-- @include base
-- @include pauses

if ARGS.scope == 'batch' then
  local group = load_group(ARGS.name)
  if group.kind ~= 'batch' then return 'unknown' end
  for route, queue in string.gmatch(group.places or '', PLACE) do must_suit_queue(route, queue) end
  if redis.call('HDEL', group.key, 'paused') == 0 then return 'nothing' end
  rejoin(group)
  emit('work.resumed', group, '"scope":"batch"')
  redis.call('SADD', DIRTY, group.gid)
  ring_bell()
  return 'resumed'
end
if redis.call('HDEL', PAUSED, pause_field()) == 0 then return 'nothing' end
date_pauses()
announce_pause('work.resumed', '')
return 'resumed'
