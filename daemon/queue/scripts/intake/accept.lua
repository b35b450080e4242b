-- Accept items: write their records, queue them, tell it, and take their stream entries off the intake stream.
-- KEYS  1 prefix
-- ARGV  1 records' retention (us)  2 failed records' retention (us)  3 number of items, then 13 for each:
--       uid, gid or '', part or '', route, lane, head, spec (JSON), fingerprint,
--       not_before (us or ''), expires (us or ''), max_attempts, entry to acknowledge or '',
--       cache ('use' or 'refresh', a space and the fingerprint of its pixels; or '')
--       after the items: '' or the gid and the part whose last item this call holds, and its entry
--       last: how many items of a tenant may wait, 0 for no cap
-- Returns  one of queued | duplicate | conflict | resumed | full for each item; an item of no group is full when its
--          tenant has its cap waiting: nothing is written for it, and its entry stays
-- One step, because a crash between the record and the acknowledgement must not make a second picture:
-- an entry read again finds its record.
-- @include base
-- @include events
-- @include ring
-- @include states

local STEP = 13
local count, cap = tonumber(ARGV[3]), ARGV[#ARGV]
local results, done = {}, {}

-- An item of a part that turns out not to be new work leaves its group's counts again, once: a part that was
-- interrupted comes here twice.
local function withdraw(uid, gid, part)
  if gid == '' then return end
  local group = group_key(gid)
  if redis.call('HSETNX', group, 'withdrawn:' .. part .. ':' .. uid, 1) == 0 then return end
  redis.call('HINCRBY', group, 'total', -1)
  redis.call('HINCRBY', group, 'queued', -1)
  redis.call('HINCRBY', group, 'open', -1)
  count_waiting((split_uid(uid)), -1)
end

local function refuse(uid, gid, part, head, known_fp, fp)
  withdraw(uid, gid, part)
  local _, batch = split_uid(uid)
  if known_fp == fp then
    emit('job.duplicate', head, batch, '')
    return 'duplicate'
  end
  emit('job.rejected', head, batch, '"code":"id_conflict","message":"This id is taken by a job with other ' ..
    'content, whose result stands; send the changed job under a new id."')
  return 'conflict'
end

-- Where a batch may have parked items, for whoever frees one of its places or ends its pause.
local function note_place(group, route, lane)
  local places, place = redis.call('HGET', group, 'places'), route .. '|' .. lane
  if not places then
    redis.call('HSET', group, 'places', place)
  elseif not string.find(',' .. places .. ',', ',' .. place .. ',', 1, true) then
    redis.call('HSET', group, 'places', places .. ',' .. place)
  end
end

local function accept(uid, gid, part, route, lane, head, spec, fp, not_before, expires, max_attempts, cache)
  local key = item_key(uid)
  local known = redis.call('HMGET', key, 'fp', 'part')
  if known[1] then
    if part ~= '' and known[2] == part and known[1] == fp then return 'resumed' end
    return refuse(uid, gid, part, head, known[1], fp)
  end
  if gid == '' and redis.call('EXISTS', group_key(uid)) == 1 then return refuse(uid, gid, part, head, '', fp) end

  local tenant, batch, _ = split_uid(uid)
  if gid == '' then
    if is_full(tenant, 1, cap) then return 'full' end
    count_waiting(tenant, 1)
  end
  redis.call('HSET', key, 'state', next_state('accepted', 'new'), 'route', route, 'lane', lane, 'group', gid,
    'part', part, 'head', head, 'spec', spec, 'fp', fp, 'accepted_us', NOW_US, 'since_us', NOW_US, 'max_attempts', max_attempts,
    'expires_us', expires, 'attempts', 0, 'deliveries', 0, 'crashes', 0, 'throttles', 0, 'epoch', 0, 'queue_us', 0, 'throttled_us', 0)
  keep_callback(key, 'job', spec)
  if cache ~= '' then redis.call('HSET', key, 'cache', cache) end
  emit('job.queued', head, batch, '')
  if gid == '' then
    redis.call('ZADD', P .. ':index', NOW_US, uid)
  else
    redis.call('ZADD', P .. ':members:' .. gid, 'NX', redis.call('ZCARD', P .. ':members:' .. gid), uid)
    local group = group_key(gid)
    if redis.call('HEXISTS', group, 'cancel') == 1 then
      local record = { group = gid, state = 'queued', head = head, route = route, lane = lane }
      count_depth(record, 'queued', 1)
      finish_item(uid, record, 'cancel_order', '', {})
      return 'queued'
    end
    -- Nobody can promise that the batch is done before its last item may start.
    if not_before ~= '' and tonumber(not_before) > (tonumber(redis.call('HGET', group, 'latest_us') or '0')) then
      redis.call('HSET', group, 'latest_us', not_before)
    end
    if batch ~= '' then
      note_place(group, route, lane)
      if cache ~= '' then note_place(group, route, CACHED) end
    end
  end
  count_depth({ route = route, lane = lane }, 'queued', 1)
  redis.call('ZADD', P .. ':waiting:' .. route, NOW_US, uid)
  if expires ~= '' then redis.call('ZADD', P .. ':expiring', expires, uid) end
  if not_before ~= '' and tonumber(not_before) > NOW then
    redis.call('ZADD', P .. ':delayed', not_before, uid)
  else
    queue_up(uid, { state = 'queued', route = route, lane = lane }, false)
  end
  return 'queued'
end

for i = 0, count - 1 do
  local a = 4 + i * STEP
  results[i + 1] = accept(ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], ARGV[a + 5], ARGV[a + 6],
    ARGV[a + 7], ARGV[a + 8], ARGV[a + 9], ARGV[a + 10], ARGV[a + 12])
  if ARGV[a + 11] ~= '' and results[i + 1] ~= 'full' then done[#done + 1] = ARGV[a + 11] end
end

local closing = ARGV[4 + count * STEP]
if closing ~= '' then
  local part, entry = ARGV[5 + count * STEP], ARGV[6 + count * STEP]
  local group = group_key(closing)
  if redis.call('HSETNX', group, 'done:' .. part, 1) == 1 then
    -- A cancelled batch waits for no part, so there is nothing to count down.
    local cancelled = redis.call('HEXISTS', group, 'cancel') == 1
    local parts_left = cancelled and 0 or redis.call('HINCRBY', group, 'parts_left', -1)
    if parts_left <= 0 and redis.call('HGET', group, 'open') == '0' then finish_group(closing) end
  end
  if entry ~= '' then done[#done + 1] = entry end
end
if #done > 0 then
  redis.call('XACK', P .. ':jobs', 'intake', unpack(done))
  redis.call('XDEL', P .. ':jobs', unpack(done))
end
conclude()
trim_index()
return results
