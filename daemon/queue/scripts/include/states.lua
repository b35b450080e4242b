-- Moves between states, each with its counts, in one place (a script that includes this ends with conclude()). An item's
-- record says where it is; its group (a batch, or a job of several pictures) counts its members by state, and `open`
-- counts those that have not ended.
-- @include receipts
-- @include tenants
-- @include transitions
local FINAL = { succeeded = true, failed = true, cancelled = true, expired = true }
local WAITING = { queued = true, retry_wait = true, throttled = true }

local RETENTION_US = tonumber(ARGV[1])
local FAILED_RETENTION_US = tonumber(ARGV[2])

local function retention_us(state) return state == 'succeeded' and RETENTION_US or FAILED_RETENTION_US end

-- The parked items of a batch may run now, wherever they stand.
local function rejoin(gid, places)
  local tenant = string.match(gid, '^[^/]*')
  for route, lane in string.gmatch(places, '([^|,]+)|([^,]+)') do
    join_ring(route, lane, tenant)
    woken[lane == 'cached' and lane or route] = true
  end
end

-- A group whose last member has ended gets its own final state, its event, and a place in the janitor's list.
local function finish_group(gid)
  local group = group_key(gid)
  local f = redis.call('HMGET', group, 'total', 'succeeded', 'failed', 'cancelled', 'expired', 'head', 'kind', 'accepted_us', 'state',
    'paused', 'places')
  if not f[9] then return end
  if f[9] ~= 'running' then
    -- A part of a cancelled batch came after its end: these members need their time to live as well.
    redis.call('ZADD', P .. ':closing', NOW_US, gid)
    redis.call('HDEL', group, 'closed_to')
    return
  end
  local total = tonumber(f[1])
  local state = 'completed_with_errors'
  if tonumber(f[2]) == total then state = 'completed'
  elseif tonumber(f[3]) == total then state = 'failed'
  elseif tonumber(f[4]) == total then state = 'cancelled'
  elseif tonumber(f[5]) == total then state = 'expired' end
  redis.call('HSET', group, 'state', GROUP_TRANSITIONS[state][f[9]], 'finished_us', NOW_US)
  redis.call('ZADD', P .. ':closing', NOW_US, gid)
  redis.call('HDEL', group, 'closed_to', 'paused')
  -- What was parked is tombstones now, for a claim to step over: else nobody would ever clear them away.
  if f[10] and f[11] then rejoin(gid, f[11]) end
  redis.call('ZREM', P .. ':active', gid)
  redis.call('SREM', P .. ':dirty', gid)
  if f[7] == 'batch' then
    local _, batch = string.match(gid, '^([^/]*)/(.*)$')
    local counts = string.format(
      '"state":"%s","counts":{"total":%d,"queued":0,"throttled":0,"retry_wait":0,"running":0,"succeeded":%d,' ..
      '"failed":%d,"cancelled":%d,"expired":%d,"held":0},"seconds":%.3f',
      state, total, f[2], f[3], f[4], f[5], (NOW - tonumber(f[8])) / 1000000)
    emit('batch.finished', f[6], batch, counts)
  end
end

-- A group that has ended gets work again: a person's retry, or a part that was waited for no more.
local function reopen_group(gid)
  local group = group_key(gid)
  local state = GROUP_TRANSITIONS.reopened[redis.call('HGET', group, 'state')]
  if not state then return end
  redis.call('HDEL', group, 'finished_us', 'closed_to')
  redis.call('HSET', group, 'state', state)
  redis.call('ZADD', P .. ':active', NOW_US, gid)
  redis.call('PERSIST', group)
  redis.call('PERSIST', P .. ':members:' .. gid)
  local _, name = string.match(gid, '^([^/]*)/(.*)$')
  redis.call('PERSIST', P .. ':events:' .. name)
  -- The members that had ended have a time to live by now; the janitor takes it away, a page at a time.
  redis.call('ZADD', P .. ':closing', NOW_US, gid)
end

-- Queue depth by route, lane and state: summed up here and written once a call, however many items it moves.
local depth = {}
local function count_depth(record, state, change)
  if FINAL[state] then return end
  local field = record.route .. '|' .. record.lane .. '|' .. state
  depth[field] = (depth[field] or 0) + change
end

-- @include flight

-- Ends by route and outcome that no run tells of: a cancel, an expiry. A replica that runs an item counts its end by
-- itself; these wait here until one takes them into its metrics.
local ended = {}
local function count_end(record, state)
  if record.state == 'running' then return end
  local field = record.route .. '|' .. state
  ended[field] = (ended[field] or 0) + 1
end

-- What is written once a call, however many items it moved.
local function conclude()
  write_waiting()
  for field, change in pairs(depth) do
    if change ~= 0 then redis.call('HINCRBY', P .. ':depth', field, change) end
  end
  for field, count in pairs(ended) do redis.call('HINCRBY', P .. ':ended', field, count) end
  ring_bell()
end

-- Count one member from one state to another; the last one to end closes its group.
local function count_member(gid, from, to)
  local group = group_key(gid)
  redis.call('HINCRBY', group, from, -1)
  redis.call('HINCRBY', group, to, 1)
  redis.call('SADD', P .. ':dirty', gid)
  local change = (FINAL[from] and 1 or 0) - (FINAL[to] and 1 or 0)
  if change ~= 0 then
    local open = redis.call('HINCRBY', group, 'open', change)
    if open == 0 and tonumber(redis.call('HGET', group, 'parts_left')) <= 0 then finish_group(gid) end
  end
end

-- Everything that is counted when an item goes from record.state to another one.
local function count_move(uid, record, to)
  local from = record.state
  count_depth(record, from, -1)
  count_depth(record, to, 1)
  local waiting = P .. ':waiting:' .. record.route
  if WAITING[from] and not WAITING[to] then
    redis.call('ZREM', waiting, uid)
    count_waiting((split_uid(uid)), -1)
  elseif WAITING[to] and not WAITING[from] then
    redis.call('ZADD', waiting, NOW_US, uid)
    count_waiting((split_uid(uid)), 1)
  end
  if FINAL[to] or to == 'held' then leave_flight(uid, record, to) end
  if record.group ~= '' then count_member(record.group, from, to) end
end

-- End an item: its record, its counts, its event. `extra` is the inside of a JSON object for the event. Returns the
-- state it has now; nil, and nothing is changed, where the cause may not happen to it.
local function finish_item(uid, record, cause, extra, fields)
  local key, state = item_key(uid), next_state(cause, record.state)
  if not state then return nil end
  local set = { 'HSET', key, 'state', state, 'finished_us', NOW_US }
  for _, value in ipairs(fields) do set[#set + 1] = value end
  redis.call(unpack(set))
  -- Members live as long as their group; the janitor gives them their time when the group has ended.
  if record.group == '' then redis.call('PEXPIRE', key, math.ceil(retention_us(state) / 1000)) end
  local _, batch = split_uid(uid)
  emit('job.' .. state, record.head, batch, extra)
  count_end(record, state)
  count_move(uid, record, state)
  return state
end

-- End an item that no worker has. What stands in a backlog or the ring stays there as a tombstone: the claim steps over
-- it, and a retry that comes before finds it in its place.
local function finish_idle(uid, record, cause)
  if not next_state(cause, record.state) then return nil end
  redis.call('ZREM', P .. ':expiring', uid)
  local was_delayed = redis.call('ZREM', P .. ':delayed', uid) == 1
  local stands = WAITING[record.state] and not was_delayed and record.lane ~= JOINED
  return finish_item(uid, record, cause, '', stands and { 'tombstone', 1 } or {})
end

-- Send an item back to its queue: now, before its source's others, or when it is due. Returns as `finish_item` does.
local function requeue(uid, record, cause, due_us, fields)
  local key, state = item_key(uid), next_state(cause, record.state)
  if not state then return nil end
  local set = { 'HSET', key, 'state', state, 'since_us', NOW_US, 'entry', '', 'worker', '' }
  for _, value in ipairs(fields) do set[#set + 1] = value end
  redis.call(unpack(set))
  count_move(uid, record, state)
  stand_down(uid)
  local expires = redis.call('HGET', key, 'expires_us')
  if expires and expires ~= '' then redis.call('ZADD', P .. ':expiring', expires, uid) end
  if due_us > NOW then
    redis.call('ZADD', P .. ':delayed', int(due_us), uid)
  else
    record.state, record.is_tombstone = state, redis.call('HDEL', key, 'tombstone') == 1
    queue_up(uid, record, true)
  end
  return state
end

-- What a settle frees for a batch with a cap of its own.
local function unpark(gid)
  if gid == '' then return end
  local fields = redis.call('HMGET', group_key(gid), 'max_in_flight', 'places')
  if fields[1] and fields[2] then rejoin(gid, fields[2]) end
end
