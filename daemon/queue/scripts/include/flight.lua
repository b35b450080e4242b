-- Single flight: of identical items that may have each other's picture one makes it, and the others wait for it.
-- A flight is a sorted set of those that may have it. Score 0 leads: it runs, or has a task. IN_LINE stands in its own
-- queue like any item. Higher scores have joined the leader, in the order in which they came.
-- Who leads is decided when it is claimed. So nobody waits for one that could not start: the end of a long batch, one
-- that is paused, a lower priority. Whoever stops leading without a picture wakes all that joined, and they are queued.
-- Two lanes say where an item stands that needs no call now: `joined` has no stream, its items wait for their leader;
-- `cached` has one, and what is claimed from it needs no permit, since it is only copied.
local CACHED, JOINED = 'cached', 'joined'
local IN_LINE = -1
-- Who looks again, and when. A key of its own: a replica of an older version would queue what joined, for nobody.
local LOOKS = P .. ':looks'
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

-- Whether another item than this one leads; one that does not any more is taken off. What has a task has paid for its
-- picture, so it leads also while it waits, unless its batch is paused: then nobody knows for how long.
local function has_leader(flight, uid)
  local leader = redis.call('ZRANGEBYSCORE', flight, 0, 0, 'LIMIT', 0, 1)[1]
  if not leader or leader == uid then return false end
  local f = redis.call('HMGET', item_key(leader), 'state', 'receipt', 'late_receipt', 'group')
  if f[1] == 'running' then return true end
  local has_paid = WAITING[f[1]] and has_task(f[2], f[3])
  if has_paid and not (f[4] ~= '' and redis.call('HEXISTS', group_key(f[4]), 'paused') == 1) then return true end
  redis.call('ZREM', flight, leader)
  return false
end

-- Look at once where they belong now.
local function wake(uids)
  for first = 1, #uids, 1000 do
    local looks = { 'ZADD', LOOKS }
    for i = first, math.min(first + 999, #uids) do
      looks[#looks + 1] = NOW_US
      looks[#looks + 1] = uids[i]
    end
    redis.call(unpack(looks))
  end
end

local function wake_joined(flight) wake(redis.call('ZRANGEBYSCORE', flight, '(0', '+inf')) end

local function wake_all(flight)
  wake(redis.call('ZRANGEBYSCORE', flight, '-inf', '(0'))
  wake_joined(flight)
end

-- Who looks again keeps its turn.
local function join(flight, uid)
  local place = redis.call('ZSCORE', flight, uid)
  if not place or tonumber(place) < 0 then
    local last = redis.call('ZRANGE', flight, -1, -1, 'WITHSCORES')
    redis.call('ZADD', flight, int(tonumber(last[2]) + 1), uid)
  end
  redis.call('ZADD', LOOKS, int(NOW + LOOK_AGAIN_US), uid)
  return JOINED
end

-- Whether a copy or a refusal is there for the item: then it is out of the flight. A refusal is for those who waited for
-- it: who asks later may have another answer.
local function take_answer(flight, uid, name)
  local place = redis.call('ZSCORE', flight, uid)
  if redis.call('EXISTS', picture_key(name)) == 0 and not (place and redis.call('EXISTS', refusal_key(name)) == 1) then
    return false
  end
  redis.call('HSET', item_key(uid), 'joined', place and 1 or 0)
  redis.call('ZREM', flight, uid)
  return true
end

-- Queue an item whose state is record.state: for a call, for a copy, or behind its leader. It may stand where it belongs
-- already, as a tombstone or because it was woken there.
local function queue_up(uid, record, first)
  local f = redis.call('HMGET', item_key(uid), 'cache', 'receipt', 'late_receipt')
  local mode, name = flight_of(uid, f[1])
  local may_stand = record.is_tombstone
  if mode then
    local flight, lane = flight_key(name), own_lane(uid, record)
    redis.call('ZREM', LOOKS, uid)
    if has_task(f[2], f[3]) then
      if has_leader(flight, uid) then redis.call('ZREM', flight, uid) else redis.call('ZADD', flight, 0, uid) end
    elseif mode == 'use' then
      if take_answer(flight, uid, name) then
        lane = CACHED
      elseif has_leader(flight, uid) then
        lane = join(flight, uid)
      else
        may_stand = may_stand or redis.call('ZSCORE', flight, uid) == tostring(IN_LINE)
        redis.call('ZADD', flight, IN_LINE, uid)
      end
    end
    set_lane(uid, record, lane)
    if lane == JOINED then return end
  end
  woken[record.lane == CACHED and CACHED or record.route] = true
  -- Looked for: a claim that has stepped over the tombstone leaves the mark.
  if may_stand and stands(uid, record.route, record.lane) then
    join_ring(record.route, record.lane, (split_uid(uid)))
  else
    enqueue(uid, record.route, record.lane, first)
  end
end

-- An item's turn has come. Whether it is answered without a call of its own, now or when its leader has ended: then it is
-- in another lane from here on. Else it goes on, and leads if nobody does.
local function stands_aside(uid, record, cache, needs_call)
  local mode, name = flight_of(uid, cache)
  if not mode then return false end
  local flight = flight_key(name)
  local was_woken = redis.call('ZREM', LOOKS, uid) == 1
  local led = has_leader(flight, uid)
  if mode == 'use' and needs_call then
    local answered = redis.call('EXISTS', picture_key(name)) == 1
    -- Who was woken for a refusal waited for it.
    if answered or was_woken and redis.call('EXISTS', refusal_key(name)) == 1 then
      queue_up(uid, record, true)
      return true
    elseif led then
      set_lane(uid, record, join(flight, uid))
      return true
    end
  end
  if led then
    redis.call('ZREM', flight, uid)
  else
    redis.call('ZADD', flight, 0, uid)
    redis.call('DEL', refusal_key(name))  -- it asks anew
  end
  return false
end

-- A leader that has to wait again leads no more, unless it has a task.
local function stand_down(uid)
  local f = redis.call('HMGET', item_key(uid), 'cache', 'receipt', 'late_receipt')
  local mode, name = flight_of(uid, f[1])
  if not mode or has_task(f[2], f[3]) then return end
  if redis.call('ZREM', flight_key(name), uid) == 1 then wake_joined(flight_key(name)) end
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
    wake_all(flight)
  elseif err and is_refusal(err) then
    redis.call('SET', refusal_key(name), err, 'PX', REFUSAL_MS)
    wake_all(flight)
  end
  redis.call('ZREM', LOOKS, uid)
  redis.call('ZREM', flight, uid)
  if led then wake_joined(flight) end
end

-- The picture of this entry is not there any more, so nobody else shall look for it.
local function forget_picture(uid, entry)
  local _, name = flight_of(uid, redis.call('HGET', item_key(uid), 'cache'))
  if name and redis.call('GET', picture_key(name)) == entry then redis.call('DEL', picture_key(name)) end
end
