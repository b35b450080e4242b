-- Single flight: of identical items that may have each other's picture one makes it, and the others wait for it.
-- A flight is a sorted set. Score 0 leads: its item is queued or runs like any other. Higher scores wait, in the order
-- in which they came. Two lanes say where an item stands that needs no call now: `joined` has no stream, its items wait
-- for their leader; `cached` has one, and what is claimed from it needs no permit, since it is only copied.
-- Whoever leaves a flight without a leader wakes its next one: it becomes due, and looks again (queue_up).
local CACHED, JOINED = 'cached', 'joined'
-- A leader that a replica of an older version settles wakes nobody; who waits finds out after this time.
local LOOK_AGAIN_US = 60000000
-- How long those who waited for a leader have to read that it was refused.
local REFUSAL_MS = 60000

local function set_lane(uid, record, lane)
  if lane == record.lane then return end
  count_depth(record, record.state, -1)
  record.lane = lane
  count_depth(record, record.state, 1)
  redis.call('HSET', item_key(uid), 'lane', lane)
end

local function own_lane(uid, record)
  if record.lane ~= CACHED and record.lane ~= JOINED then return record.lane end
  local ok, spec = pcall(cjson.decode, redis.call('HGET', item_key(uid), 'spec'))
  return ok and spec.priority or 'normal'
end

local function has_leader(flight)
  local head = redis.call('ZRANGE', flight, 0, 0, 'WITHSCORES')
  if head[2] ~= '0' then return false end
  local state = redis.call('HGET', item_key(head[1]), 'state')
  if state and not FINAL[state] and state ~= 'held' then return true end
  redis.call('ZREM', flight, head[1])
  return false
end

local function wake(uids)
  for first = 1, #uids, 1000 do
    local due = { 'ZADD', P .. ':delayed' }
    for i = first, math.min(first + 999, #uids) do
      due[#due + 1] = NOW_US
      due[#due + 1] = uids[i]
    end
    redis.call(unpack(due))
  end
end

local function drop_out(flight, uid)
  redis.call('ZREM', flight, uid)
  if not has_leader(flight) then wake(redis.call('ZRANGE', flight, 0, 0)) end
end

local function join(flight, uid)
  local last = redis.call('ZRANGE', flight, -1, -1, 'WITHSCORES')
  redis.call('ZADD', flight, 'NX', int(tonumber(last[2]) + 1), uid)
  redis.call('ZADD', P .. ':delayed', int(NOW + LOOK_AGAIN_US), uid)
end

-- Where a waiting item belongs now. One that has a task has paid for it, and goes on with that.
local function lane_in_flight(uid, record, mode, name, has_task)
  local flight = flight_key(name)
  local place = redis.call('ZSCORE', flight, uid)
  if mode == 'use' and place ~= '0' and not has_task then
    -- A refusal is for those who waited for it: who asks later may have another answer.
    if redis.call('EXISTS', picture_key(name)) == 1 or (place and redis.call('EXISTS', refusal_key(name)) == 1) then
      redis.call('HSET', item_key(uid), 'joined', place and 1 or 0)
      if place then drop_out(flight, uid) end
      return CACHED
    end
    if has_leader(flight) then
      join(flight, uid)
      return JOINED
    end
  end
  if not has_leader(flight) then
    redis.call('ZADD', flight, 0, uid)
    redis.call('DEL', refusal_key(name))  -- it asks anew
  end
  return own_lane(uid, record)
end

-- Queue an item whose state is record.state: for a call, for a copy, or behind its leader; as a tombstone it may stand
-- where it belongs already. Returns whom to ring for.
local function queue_up(uid, record, first)
  local f = redis.call('HMGET', item_key(uid), 'cache', 'receipt', 'late_receipt')
  local mode, name = flight_of(uid, f[1])
  if mode then
    set_lane(uid, record, lane_in_flight(uid, record, mode, name, (f[2] or '') .. (f[3] or '') ~= ''))
    if record.lane == JOINED then return record.route end
  end
  -- Looked for as well: a claim that has stepped over the tombstone leaves the mark.
  if record.is_tombstone and stands(uid, record.route, record.lane) then
    join_ring(record.route, record.lane, (split_uid(uid)))
  else
    enqueue(uid, record.route, record.lane, first)
  end
  return record.lane == CACHED and CACHED or record.route
end

local function is_refusal(text)
  local ok, err = pcall(cjson.decode, text)
  return ok and (err.kind == 'moderation_input' or err.kind == 'moderation_output')
end

-- An item that has ended, or is held, leaves its flight; what it leaves behind decides what the others do.
local function leave_flight(uid, record, state)
  local key = item_key(uid)
  local mode, name = flight_of(uid, redis.call('HGET', key, 'cache'))
  if not mode then return end
  local flight = flight_key(name)
  local led = redis.call('ZSCORE', flight, uid) == '0'
  local err = state == 'failed' and led and redis.call('HGET', key, 'error')
  if state == 'succeeded' and record.lane ~= CACHED then
    local entry = '{"from":"' .. uid .. '","result":' .. redis.call('HGET', key, 'result') .. '}'
    redis.call('SET', picture_key(name), entry, 'PX', math.max(1, math.ceil(RETENTION_US / 1000)))
    wake(redis.call('ZRANGEBYSCORE', flight, '(0', '+inf'))
  elseif err and is_refusal(err) then
    redis.call('SET', refusal_key(name), err, 'PX', REFUSAL_MS)
    wake(redis.call('ZRANGEBYSCORE', flight, '(0', '+inf'))
  end
  redis.call('ZREM', P .. ':delayed', uid)
  drop_out(flight, uid)
end

-- The picture of this entry is not there any more, so nobody else shall look for it.
local function forget_picture(uid, entry)
  local _, name = flight_of(uid, redis.call('HGET', item_key(uid), 'cache'))
  if name and redis.call('GET', picture_key(name)) == entry then redis.call('DEL', picture_key(name)) end
end
