-- Pause new calls: of the whole fleet, of one route, or of one batch. What runs goes on, what waits keeps its place.
-- KEYS  1 prefix
-- ARGV  1 records' retention (us)  2 failed records' retention (us)  3 fleet | route | batch
--       4 '' | the route's name | gid  5 reason (a JSON string)  6 how long (us), '' until it is resumed; not of a batch
-- Returns  ok | unknown | ended, the last two of a batch
-- One step: the pause, its event, the knock and the new outlook of the batches (`dirty`) are one fact. The end of a
-- pause is a time of this server's clock, so all replicas go on at the same moment.
-- @include base
-- @include events
-- @include ring
-- @include states
-- @include pauses

local scope, name, reason = ARGV[3], ARGV[4], ARGV[5]
if scope == 'batch' then
  local f = redis.call('HMGET', group_key(name), 'state', 'head', 'kind')
  if f[3] ~= 'batch' then return 'unknown' end
  if f[1] ~= 'running' then return 'ended' end
  redis.call('HSET', group_key(name), 'paused', reason)
  local _, batch = string.match(name, '^([^/]*)/(.*)$')
  emit('work.paused', f[2], batch, '"scope":"batch","reason":' .. reason .. ',"until":null')
  redis.call('SADD', P .. ':dirty', name)
  return 'ok'
end
local ends = ARGV[6] ~= '' and int(NOW + tonumber(ARGV[6])) or ''
local field = scope == 'route' and 'route:' .. name or 'fleet'
redis.call('HSET', P .. ':paused', field, ends .. ' ' .. reason)
date_pauses()
tell_pause('work.paused', scope, name,
  ',"reason":' .. reason .. ',"until":' .. (ends ~= '' and '"' .. iso(tonumber(ends)) .. '"' or 'null'))
return 'ok'
