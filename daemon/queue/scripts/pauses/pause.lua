-- Pause new calls of the whole fleet, of one route, or of one batch. Running items go on; waiting items keep their place.
-- KEYS  1 prefix
-- ARGS  scope (fleet | route | batch), name (of the route, or the gid), reason (a JSON string),
--       length_us: without it the pause lasts until a resume; a batch has none
-- Returns  ok | unknown | ended; the last two only for a batch
-- One step: the pause, its event, the message on the bell and the new progress of the batches (`dirty`) are one fact. The
-- end of a pause is a time of this server's clock, so all replicas go on at the same moment.
-- @include base
-- @include pauses

if ARGS.scope == 'batch' then
  local group = load_group(ARGS.name)
  if group.kind ~= 'batch' then return 'unknown' end
  if group.state ~= 'running' then return 'ended' end
  update(group, { paused = ARGS.reason })
  emit('work.paused', group, '"scope":"batch","reason":' .. ARGS.reason .. ',"until":null')
  redis.call('SADD', DIRTY, group.gid)
  return 'ok'
end
local ends_us = ARGS.length_us and NOW + ARGS.length_us
redis.call('HSET', PAUSED, pause_field(), (ends_us and int(ends_us) or '') .. ' ' .. ARGS.reason)
date_pauses()
announce_pause('work.paused', ',"reason":' .. ARGS.reason .. ',"until":' .. (ends_us and '"' .. iso(ends_us) .. '"' or 'null'))
return 'ok'
