-- Take up to `count` items of one route, fairly: lanes by weight, tenants in turn. Permits are held already.
-- KEYS  1 prefix
-- ARGS  route, worker, count, queues (high, normal and low, or `cached` alone, which needs no permit),
--       permits: of each item, in order (none where the route has no quota)
-- Returns  { 1 when work is still waiting, entries that had vanished from the stream, items: their records (JSON) }
-- One step, because "delivered", "running", the tenant's next entry and the event are one fact: a crash after it leaves a
-- pending entry that a reclaim finds, and nothing in between.
-- Tombstones (items that were cancelled, expired or queued elsewhere since) are stepped over, and so is an item that stands
-- aside for an identical one. An undelivered entry is never deleted, since XDEL of one makes the group's lag unknown.
-- @include base
-- @include states

local route, worker, QUEUES = ARGS.route, ARGS.worker, ARGS.queues
local WEIGHTS = { high = 8, normal = 3, low = 1 }
-- So many entries that start nothing are stepped over in a call, so that the script stays short.
local MOST_SKIPPED = 100

local in_ring = {}  -- by queue, the number of tenants with a waiting entry
local function look(queue) in_ring[queue] = redis.call('HLEN', ring_key(route, queue)) end
for _, queue in ipairs(QUEUES) do look(queue) end

-- Smooth weighted round robin over the lanes that have work (as nginx balances its upstreams).
local credits = nil
local function pick_queue()
  local with_work = {}
  for _, queue in ipairs(QUEUES) do
    if in_ring[queue] > 0 then with_work[#with_work + 1] = queue end
  end
  if #with_work < 2 then return with_work[1] end
  credits = credits or read_fields(P .. ':lanes:' .. route, unpack(QUEUES))
  local total, best = 0, nil
  for _, queue in ipairs(with_work) do
    total = total + WEIGHTS[queue]
    credits[queue] = (credits[queue] or 0) + WEIGHTS[queue]
    if not best or credits[queue] > credits[best] then best = queue end
  end
  credits[best] = credits[best] - total
  return best
end

-- The ring knows entries that the stream has not: somebody trimmed it or deleted it. Their items are queued anew, once a
-- queue and call: a stream that loses entries as fast as they come must not hold the server.
local lost, healed = 0, {}
local function heal(queue)
  if healed[queue] then
    in_ring[queue] = 0
    return
  end
  healed[queue] = true
  local vanished = read_hash(ring_key(route, queue))
  redis.call('DEL', ring_key(route, queue))
  for _, uid in pairs(vanished) do
    local item = load_item(uid)
    left_ring(item, queue)
    item.route, item.place, item.lane = route, queue == 'cached' and queue or 'queue', queue
    enqueue(item, true)
    lost = lost + 1
  end
  look(queue)
end

local function read_one(queue)
  local stream = stream_key(route, queue)
  local read = { 'XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', 1, 'STREAMS', stream, '>' }
  local reply = redis.pcall(unpack(read))
  if reply and reply.err then
    -- From 0: jobs may have been queued before the first worker came, or the group was lost with a failover.
    redis.call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
    reply = redis.call(unpack(read))
  end
  if not reply then return nil end
  local entry = reply[1][2][1]
  return entry[1], entry[2][2]
end

-- Give up the entry of an item that does not start. It held a place of its batch's cap; what is parked, here or in another
-- lane, may have it.
local function step_over(queue, entry, gid)
  redis.call('XACK', stream_key(route, queue), 'workers', entry)
  redis.call('XDEL', stream_key(route, queue), entry)
  unpark(gid)
  for _, name in ipairs(QUEUES) do look(name) end
end

-- An item that waits for its time stands in no queue. What is queued at once is never early.
local function is_early(item)
  if item.state ~= 'retry_wait' and item.state ~= 'throttled' then return false end
  local due_us = redis.call('ZSCORE', DELAYED, item.uid)
  return due_us and tonumber(due_us) > NOW
end

-- Whether the item of an entry starts by it. If not, it has been put where it belongs.
local function starts(item, queue, is_paused)
  -- An entry that its item left for another queue is a tombstone, whatever becomes of the item.
  if queue_of(item) ~= queue or is_early(item) or not next_state('claimed', item.state) then return false end
  if is_past(item.expires_us) and not has_task(item) then
    redis.call('ZREM', EXPIRING, item.uid)
    finish_item(item, 'expired', {})
    return false
  end
  if is_paused then
    enqueue(item, true)
    return false
  end
  return queue == 'cached' or not stands_aside(item)
end

local items, skipped = {}, 0
local function start(item, entry)
  if (item.expires_us or '') ~= '' then redis.call('ZREM', EXPIRING, item.uid) end
  local waited = item.state == 'throttled' and 'throttled_us' or 'queue_us'
  take_up(item)
  move(item, 'claimed', { worker = worker, entry = entry, epoch = int(item.epoch + 1), deliveries = int(item.deliveries + 1),
    started_us = NOW_US, [waited] = int(item[waited] + NOW - item.since_us), permit = ARGS.permits[#items + 1] or '' },
    'job.started')
  items[#items + 1] = cjson.encode(item)
end

while #items < ARGS.count and skipped < MOST_SKIPPED do
  local queue = pick_queue()
  if not queue then break end
  local entry, uid = read_one(queue)
  local item = uid and load_item(uid)
  if not item then
    heal(queue)
  elseif item.state == 'running' and item.entry == entry then
    -- The group was lost and is read again from its beginning: this entry is somebody's running item. It stays pending, so
    -- that it is found when that worker goes silent.
    skipped = skipped + 1
  else
    local is_paused = left_ring(item, queue)
    if starts(item, queue, is_paused) then
      start(item, entry)
    else
      step_over(queue, entry, item.group)
      skipped = skipped + 1
    end
    if not release(route, queue, item.tenant) then in_ring[queue] = in_ring[queue] - 1 end
  end
end

if credits then
  redis.call('HSET', P .. ':lanes:' .. route, 'high', credits.high or 0, 'normal', credits.normal or 0, 'low', credits.low or 0)
end
conclude()
local more = 0
for _, queue in ipairs(QUEUES) do
  look(queue)
  if in_ring[queue] > 0 then more = 1 end
end
return { more, lost, items }
