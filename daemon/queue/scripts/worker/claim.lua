-- Take up to `count` items of one route, fairly: lanes by weight, tenants in turn. Permits are held already.
-- KEYS  1 prefix
-- ARGV  1 records' retention (us)  2 failed records' retention (us)  3 route  4 worker  5 count
--       6 lanes, comma between (high,normal,low, or alone cached: what needs no permit)
--       7.. the permit of each item, in order ('' where the route has no quota)
-- Returns  { more (1 when work is still waiting), entries that had vanished from the stream, items }, an item being
--          { uid, lane, entry, epoch, spec, attempts, deliveries, throttles, accepted_us, queue_us, throttled_us, receipt,
--            waived }
-- One step, because "delivered", "running", the tenant's next entry and the event are one fact: a crash after it
-- leaves a pending entry that a reclaim finds, and nothing in between.
-- Items that were cancelled, expired or queued elsewhere since are skipped here (tombstones), and so is who stands aside
-- for an identical item; an undelivered entry is never deleted, since XDEL of one makes the group's lag unknown for good.
-- @include base
-- @include events
-- @include ring
-- @include states

local route, worker, wanted = ARGV[3], ARGV[4], tonumber(ARGV[5])
local LANES = {}
for lane in string.gmatch(ARGV[6], '[^,]+') do LANES[#LANES + 1] = lane end
local WEIGHTS = { high = 8, normal = 3, low = 1 }
-- So many entries that start nothing are stepped over in a call, so that the script stays short.
local MOST_SKIPPED = 100

local waiting = {}
for _, lane in ipairs(LANES) do waiting[lane] = redis.call('HLEN', ring_key(route, lane)) end

-- Smooth weighted round robin over the lanes that have work (as nginx balances its upstreams).
local credits = nil
local function pick_lane()
  local only, several = nil, false
  for _, lane in ipairs(LANES) do
    if waiting[lane] > 0 then
      if only then several = true end
      only = only or lane
    end
  end
  if not several then return only end
  if not credits then
    credits = {}
    local stored = redis.call('HMGET', P .. ':lanes:' .. route, unpack(LANES))
    for i, lane in ipairs(LANES) do credits[lane] = tonumber(stored[i]) or 0 end
  end
  local total, best = 0, nil
  for _, lane in ipairs(LANES) do
    if waiting[lane] > 0 then
      total = total + WEIGHTS[lane]
      credits[lane] = credits[lane] + WEIGHTS[lane]
      if not best or credits[lane] > credits[best] then best = lane end
    end
  end
  credits[best] = credits[best] - total
  return best
end

-- The ring knows entries that the stream has not: somebody trimmed it or deleted it. Their items are queued anew.
local lost = 0
local function heal(lane)
  local vanished = redis.call('HGETALL', ring_key(route, lane))
  redis.call('DEL', ring_key(route, lane))
  for i = 1, #vanished, 2 do
    local tenant, source = split_uid(vanished[i + 1])
    left_ring(tenant, source)
    enqueue(vanished[i + 1], route, lane, true)
    lost = lost + 1
  end
  waiting[lane] = redis.call('HLEN', ring_key(route, lane))
end

local function read_one(lane)
  local stream = stream_key(route, lane)
  local reply = redis.pcall('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', 1, 'STREAMS', stream, '>')
  if reply and reply.err then
    -- From 0: jobs may have been queued before the first worker came, or the group was lost with a failover.
    redis.call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
    reply = redis.call('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', 1, 'STREAMS', stream, '>')
  end
  if not reply then return nil end
  local entry = reply[1][2][1]
  return entry[1], entry[2][2]
end

-- An item that waits for its time stands in no queue. What is queued at once is never early.
local function is_early(uid, state)
  if state ~= 'retry_wait' and state ~= 'throttled' then return false end
  local due_us = redis.call('ZSCORE', P .. ':delayed', uid)
  return due_us ~= false and tonumber(due_us) > NOW
end

-- Give up the entry of an item, which does not start by it.
local function step_over(lane, entry, gid)
  redis.call('XACK', stream_key(route, lane), 'workers', entry)
  redis.call('XDEL', stream_key(route, lane), entry)
  -- It held a place of its batch's cap; what is parked, here or in another lane, may have it.
  unpark(gid)
  for _, name in ipairs(LANES) do waiting[name] = redis.call('HLEN', ring_key(route, name)) end
end

local healed = {}
local FIELDS = { 'state', 'group', 'head', 'spec', 'attempts', 'deliveries', 'throttles', 'epoch', 'since_us',
  'accepted_us', 'queue_us', 'throttled_us', 'expires_us', 'receipt', 'entry', 'waived', 'lane', 'late_receipt', 'cache' }

local items, skipped = {}, 0
while #items < wanted and skipped < MOST_SKIPPED do
  local lane = pick_lane()
  if not lane then break end
  local entry, uid = read_one(lane)
  if not entry then
    -- Once a lane and call: a stream that loses entries as fast as they come must not hold the server.
    if healed[lane] then waiting[lane] = 0 else heal(lane) end
    healed[lane] = true
  else
    local tenant, batch = split_uid(uid)
    local key = item_key(uid)
    local f = redis.call('HMGET', key, unpack(FIELDS))
    local record = { state = f[1], group = f[2], head = f[3], route = route, lane = f[17] }
    local running_here = f[1] == 'running' and f[15] == entry
    -- An entry that its item left for another lane is a tombstone, whatever becomes of the item; also when it has come
    -- back, and is not due.
    local here = f[17] == lane and not is_early(uid, f[1])
    local expires = here and f[13] and f[13] ~= '' and tonumber(f[13])
    -- What has a task has started, and may be paid for.
    local started = has_task(f[14], f[18])
    local expired = expires and expires <= NOW and not started and next_state('expired', f[1])
    local state = here and next_state('claimed', f[1])
    local paused = not running_here and left_ring(tenant, batch)
    if running_here then
      -- The group was lost and is read again from its beginning: this entry is somebody's running item. It stays
      -- pending, so that it is found when that worker goes silent.
      skipped = skipped + 1
    elseif expired or not state then
      if expired then
        redis.call('ZREM', P .. ':expiring', uid)
        finish_item(uid, record, 'expired', '', {})
      end
      step_over(lane, entry, f[2] or '')
      skipped = skipped + 1
    elseif paused then
      -- Its batch was paused after it had joined the ring: back to the head of its backlog.
      redis.call('XACK', stream_key(route, lane), 'workers', entry)
      redis.call('XDEL', stream_key(route, lane), entry)
      enqueue(uid, route, lane, true)
      skipped = skipped + 1
    elseif lane ~= CACHED and stands_aside(uid, record, f[19], not started) then
      step_over(lane, entry, f[2])
      skipped = skipped + 1
    else
      local waited = NOW - tonumber(f[9])
      local queue_us, throttled_us = tonumber(f[11]), tonumber(f[12])
      if f[1] == 'throttled' then throttled_us = throttled_us + waited else queue_us = queue_us + waited end
      local epoch, deliveries = int(tonumber(f[8]) + 1), int(tonumber(f[6]) + 1)
      if expires then redis.call('ZREM', P .. ':expiring', uid) end
      local permit = ARGV[7 + #items] or ''
      redis.call('HSET', key, 'state', state, 'worker', worker, 'entry', entry, 'epoch', epoch,
        'deliveries', deliveries, 'started_us', NOW_US, 'queue_us', int(queue_us), 'throttled_us', int(throttled_us),
        'permit', permit)
      count_move(uid, record, state)
      emit('job.started', f[3], batch, '')
      items[#items + 1] = { uid, lane, entry, epoch, f[4], f[5], deliveries, f[7], f[10], int(queue_us),
        int(throttled_us), take_up(key, f[14], f[18]), f[16] or '' }
    end
    if not running_here and not release(route, lane, tenant) then waiting[lane] = waiting[lane] - 1 end
  end
end

if credits then
  redis.call('HSET', P .. ':lanes:' .. route, 'high', credits.high, 'normal', credits.normal, 'low', credits.low)
end
conclude()
local more = 0
for _, lane in ipairs(LANES) do if redis.call('HLEN', ring_key(route, lane)) > 0 then more = 1 end end
return { more, lost, items }
