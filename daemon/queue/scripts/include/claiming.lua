-- The parts of a claim: the request for a permit, the choice of the next entry, and whether and how its item starts.
-- A script may wrap `starts` and `start` before it includes claim_all.
-- @include base
-- @include ring
local route, worker, QUEUES = ARGS.route, ARGS.worker, ARGS.queues
local rings = {}
for i, queue in ipairs(QUEUES) do rings[i] = ring_key(route, queue) end
-- Most looks of an idle route end here, before the server makes the functions below.
if redis.call('EXISTS', unpack(rings)) == 0 then return { 0, 0, {}, '0', {} } end

-- @include states
-- @include life
local WEIGHTS = { high = 8, normal = 3, low = 1 }
-- A call steps over at most so many entries that start nothing, so that the script stays short.
local MOST_SKIPPED = 100

local LIFE_US = life_began_us()
local calm_us = LIFE_US + ARGS.calm_us - NOW
if NOW >= LIFE_US and calm_us > 0 and LIFE_US > 0 then return { 1, 0, {}, int(calm_us), {} } end

local in_ring = {}  -- by queue, the number of tenants with a waiting entry
local function look(queue) in_ring[queue] = redis.call('HLEN', ring_key(route, queue)) end
for _, queue in ipairs(QUEUES) do
  must_suit_queue(route, queue)
  look(queue)
end
must_suit_queue(route, 'cached')
must_suit('HLEN', P .. ':lanes:' .. route)

-- No call begins while Redis has no memory for what follows it. A script that has written may go on without memory, so a
-- write that needs memory comes first.
if ARGS.intends then redis.call('SET', P .. ':probe', NOW_US, 'PX', 60000) end

local request = function(KEYS, ARGV)
-- @include decision
  return acquire(), grant
end
local requested = {}
if ARGS.early_us then
  local new
  requested, new = request({ unpack(KEYS, 2) }, { unpack(ARGV, 2) })
  local wait_us, _, granted_us, slot_us, granted = unpack(requested, 2, 6)
  if requested[1] ~= 1 or granted ~= new or tonumber(wait_us) > ARGS.early_us then return { 1, 0, {}, '0', requested } end
  ARGS.permits[1] = string.gsub(ARGS.permits[1], ',0,0%]$', ',' .. granted_us .. ',' .. slot_us .. ']')
end

-- Smooth weighted round robin over the lanes that have work (as nginx balances its upstreams).
local credits = nil
local function pick_queue()
  local only, several = nil, false
  for _, queue in ipairs(QUEUES) do
    if in_ring[queue] > 0 then only, several = only or queue, only ~= nil end
  end
  if not several then return only end
  credits = credits or read_fields(P .. ':lanes:' .. route, unpack(QUEUES))
  local total, best = 0, nil
  for _, queue in ipairs(QUEUES) do
    if in_ring[queue] > 0 then
      total = total + WEIGHTS[queue]
      credits[queue] = (credits[queue] or 0) + WEIGHTS[queue]
      if not best or credits[queue] > credits[best] then best = queue end
    end
  end
  credits[best] = credits[best] - total
  return best
end

-- The ring has entries that the stream lacks, since the stream was trimmed or deleted. Queue their items again, once for
-- each queue and call: a stream that loses entries as fast as they come must not block the server.
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
  local function read(call) return call('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', 1, 'STREAMS', stream, '>') end
  local reply = read(redis.pcall)
  if reply and reply.err then
    -- From 0: jobs may have been queued before the first worker came, or a failover has lost the group.
    redis.call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
    reply = read(redis.call)
  end
  if not reply then return nil end
  local entry = reply[1][2][1]
  return entry[1], entry[2][2]
end

-- Remove the entry of an item that does not start. It held a place of its batch's cap, which a parked item of any lane may
-- now take.
local function step_over(queue, entry, gid)
  redis.call('XACK', stream_key(route, queue), 'workers', entry)
  redis.call('XDEL', stream_key(route, queue), entry)
  unpark(gid)
  for _, name in ipairs(QUEUES) do look(name) end
end

-- Whether an item still waits for its time, so that its entry is a tombstone. Other states are never early.
local function is_early(item)
  if item.state ~= 'retry_wait' and item.state ~= 'throttled' then return false end
  local due_us = redis.call('ZSCORE', DELAYED, item.uid)
  return due_us and tonumber(due_us) > NOW
end

-- Whether the item of an entry starts now. If not, this moves the item to where it belongs.
local function starts(item, queue, is_paused)
  -- If the item has moved to another queue, this entry is a tombstone in any state of the item.
  if queue_of(item) ~= queue or is_early(item) or not next_state('claimed', item.state) then return false end
  if is_past(item.expires_us) and not has_call(item) then
    redis.call('ZREM', EXPIRING, item.uid)
    finish_item(item, 'expired', {})
    return false
  end
  if is_paused then
    enqueue(item, true)
    return false
  end
  if queue == 'cached' or place_for(item) == 'queue' then return true end
  queue_up(item, true)
  return false
end

-- Whether a run has nothing to do before its call: no earlier run, no inputs to fetch. JSON escapes quotes inside a text, so
-- a prompt with that word only costs a note of its own.
local function calls_at_once(item)
  return number(item.deliveries) == 0 and not item.survived and not has_call(item) and item.place == 'queue'
    and not string.find(item.spec, '"inputs":', 1, true)
end

local items, skipped = {}, 0
local function start(item, entry)
  if (item.expires_us or '') ~= '' then redis.call('ZREM', EXPIRING, item.uid) end
  local waited = item.state == 'throttled' and 'throttled_us' or 'queue_us'
  item.survived = number(item.sent_us or item.accepted_us) < LIFE_US and '1' or nil
  item.intended = ARGS.intends and calls_at_once(item) and '1' or nil
  take_up(item)
  move(item, 'claimed', { worker = worker, entry = entry, epoch = next_epoch(item),
    deliveries = int(number(item.deliveries) + 1), started_us = NOW_US, intent_us = item.intended and NOW_US,
    [waited] = int(number(item[waited]) + NOW - number(item.since_us)), permit = ARGS.permits[#items + 1] or '' },
    'job.started')
  -- An intent in a claimed item is an earlier run's.
  if item.intended then item.intent_us = nil end
  items[#items + 1] = fields_of(item)
end
