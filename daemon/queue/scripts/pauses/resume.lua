-- End a pause: of the whole fleet, of one route, or of one batch.
-- KEYS  1 prefix
-- ARGV  1 records' retention (us)  2 failed records' retention (us)  3 fleet | route | batch
--       4 '' | the route's name | gid
-- Returns  resumed | nothing (it was not paused) | unknown (no such batch)
-- One step: a batch is let go and its tenant has an entry in the ring again, or its items would wait for ever.
-- @include base
-- @include events
-- @include ring
-- @include states
-- @include pauses

local scope, name = ARGV[3], ARGV[4]
if scope == 'batch' then
  local f = redis.call('HMGET', group_key(name), 'head', 'kind', 'places')
  if f[2] ~= 'batch' then return 'unknown' end
  if redis.call('HDEL', group_key(name), 'paused') == 0 then return 'nothing' end
  -- Without places the batch has no item in a queue yet.
  if f[3] then rejoin(name, f[3]) end
  local _, batch = string.match(name, '^([^/]*)/(.*)$')
  emit('work.resumed', f[1], batch, '"scope":"batch"')
  redis.call('SADD', P .. ':dirty', name)
  conclude()
  return 'resumed'
end
local field = scope == 'route' and 'route:' .. name or 'fleet'
if redis.call('HDEL', P .. ':paused', field) == 0 then return 'nothing' end
date_pauses()
tell_pause('work.resumed', scope, name, '')
return 'resumed'
