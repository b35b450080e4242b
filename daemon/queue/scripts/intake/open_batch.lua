-- Begin (or resume) the acceptance of a group: a batch, one part of a batch, or a job of several pictures.
-- KEYS  1 prefix
-- ARGV  1 records' retention (us)  2 failed records' retention (us)
--       3 gid  4 kind (batch|job)  5 head  6 fingerprint of this part  7 members in this part
--       8 part (1-based)  9 parts  10 max_in_flight or ''  11 details (JSON: metadata, callback, warnings)
--       12 the first member's route, for estimates  13 how many items of a tenant may wait, 0 for no cap
-- Returns  new | resume (this part was begun and not completed) | duplicate | conflict | full
-- It is all or nothing: the first part to come is judged as if all parts had its size, and those that follow a part which
-- was let in are let in.
-- One step, because two replicas may hold the same entry: only one of them may find the batch new.
-- @include base
-- @include events
-- @include ring
-- @include states

local gid, kind, head, fp = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local members, part, parts = tonumber(ARGV[7]), ARGV[8], ARGV[9]
local group = group_key(gid)
local tenant = string.match(gid, '^[^/]*')

local known = redis.call('HMGET', group, 'part:' .. part, 'done:' .. part, 'parts', 'kind', 'cancel')
if known[3] then
  if known[4] ~= kind or known[3] ~= parts then return 'conflict' end
  if known[1] then
    if known[1] ~= fp then return 'conflict' end
    return known[2] and 'duplicate' or 'resume'
  end
  -- A batch whose cancel was taken back may have ended without this part.
  if not known[5] then reopen_group(gid) end
  redis.call('HINCRBY', group, 'total', members)
  redis.call('HINCRBY', group, 'queued', members)
  redis.call('HINCRBY', group, 'open', members)
  redis.call('HSET', group, 'part:' .. part, fp)
  count_waiting(tenant, members)
  write_waiting()
  return 'new'
end
-- A job of several pictures and a job of one share their names.
if kind == 'job' and redis.call('EXISTS', item_key(gid)) == 1 then return 'conflict' end
if is_full(tenant, members * tonumber(parts), ARGV[13]) then return 'full' end
count_waiting(tenant, members)
write_waiting()

redis.call('HSET', group, 'kind', kind, 'head', head, 'state', GROUP_TRANSITIONS.opened.new, 'accepted_us', NOW_US,
  'total', members, 'queued', members, 'open', members, 'parts', parts, 'parts_left', parts,
  'running', 0, 'retry_wait', 0, 'throttled', 0, 'succeeded', 0, 'failed', 0, 'cancelled', 0, 'expired', 0,
  'held', 0, 'part:' .. part, fp, 'details', ARGV[11], 'route', ARGV[12])
keep_callback(group, kind, ARGV[11])
if ARGV[10] ~= '' then redis.call('HSET', group, 'max_in_flight', ARGV[10], 'in_ring', 0) end
redis.call('ZADD', P .. ':index', NOW_US, gid)
trim_index()
redis.call('ZADD', P .. ':active', NOW_US, gid)
if kind == 'batch' then
  local _, batch = string.match(gid, '^([^/]*)/(.*)$')
  redis.call('SADD', P .. ':dirty', gid)
  emit('batch.accepted', head, batch, '"total":' .. members .. ',"part":' .. part .. ',"parts":' .. parts)
end
return 'new'
