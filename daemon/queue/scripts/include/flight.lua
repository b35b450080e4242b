-- Single flight: one of several identical items (`cache: use`) is made; the others wait for it and get a copy.
-- A flight is a sorted set. Score 0 is the leader, which runs or has a task. Score -1 is an item in line, in its own lane.
-- Any other score is a follower: it has joined the leader and stands in no queue.
-- The claim decides which item leads, so no item waits for a leader whose turn has not come. A leader that stops leading
-- wakes its followers, and they are queued again. Its picture or refusal also wakes the items in line, since a copy needs
-- no permit.
-- @include base
-- @include counts
-- @include receipts
-- @include ring
-- @include groups
local IN_LINE = -1
local LOOK_AGAIN_US = 60000000  -- a pause may hold a leader that waits with its task, and then no event wakes its followers
local REFUSAL_MS = 60000  -- how long followers can read their leader's refusal

-- The cache mode of an item and the name of its flight; nil if the item does not use the cache. The name begins with the
-- tenant, so tenants never share pictures.
local function flight_of(item)
  local mode, fingerprint = string.match(item.cache or '', '^(%a+) (%x+)$')
  if mode then return mode, item.tenant .. '/' .. fingerprint end
end

local function flight_key(name) return P .. ':flight:' .. name end
local function picture_key(name) return P .. ':picture:' .. name end
local function refusal_key(name) return P .. ':refusal:' .. name end

-- An item's result without a call: { picture, refusal, 1 if the item already waited when the answer was made }. Only items
-- that already waited get a refusal; the provider may answer a later call differently.
local function answer_to(item, name)
  local function was_there(at_us) return tonumber(item.since_us) <= tonumber(at_us) and 1 or 0 end
  local picture = redis.call('GET', picture_key(name))
  if picture then return { picture, '', was_there(string.match(picture, '^{"at_us":(%d+)')) } end
  local at_us, refusal = string.match(redis.call('GET', refusal_key(name)) or '', '^(%d+) (.*)$')
  if refusal and was_there(at_us) == 1 then return { '', refusal, 1 } end
end

local function set_place(item, place)
  if place == item.place then return end
  count_depth(item, item.state, -1)
  update(item, { place = place })
  count_depth(item, item.state, 1)
end

-- Make the members in a range of scores due: each is queued again, to be copied or in its lane.
-- An item in line may wait for a time of its own, which it keeps; a follower only waits to look again.
local function wake(flight, from, to, keeps_its_time)
  for _, uid in ipairs(redis.call('ZRANGEBYSCORE', flight, from, to)) do
    if not (keeps_its_time and redis.call('ZSCORE', DELAYED, uid)) then redis.call('ZADD', DELAYED, NOW_US, uid) end
  end
  redis.call('ZREMRANGEBYSCORE', flight, from, to)
end
local function wake_joined(flight) wake(flight, '(0', '+inf', false) end

-- An item with a task may have paid for its picture, so it leads also while it waits. A paused one does not lead, since
-- its pause may have no end.
local function may_lead(item)
  if item.state == 'running' then return true end
  return WAITING[item.state] and has_task(item) and
    not (item.group ~= '' and redis.call('HEXISTS', group_key(item.group), 'paused') == 1)
end

local function stop_leading(flight, uid)
  if redis.call('ZREM', flight, uid) == 1 then wake_joined(flight) end
end

local function is_led(flight, item)
  local leader = redis.call('ZRANGEBYSCORE', flight, 0, 0)[1]
  if not leader or leader == item.uid then return false end
  if may_lead(load_item(leader)) then return true end
  stop_leading(flight, leader)
  return false
end

-- An item waits again, so it may have to stop leading.
local function step_back(item)
  local mode, name = flight_of(item)
  if mode and not may_lead(item) then stop_leading(flight_key(name), item.uid) end
end

-- Queue an item: to be copied if its answer exists, else in its lane. An item with a task leads at once.
local function queue_up(item, first)
  local mode, name = flight_of(item)
  if mode then
    local flight, is_copy = flight_key(name), mode == 'use' and not has_task(item) and answer_to(item, name)
    if has_task(item) and not is_led(flight, item) then redis.call('ZADD', flight, 0, item.uid) end
    set_place(item, is_copy and 'cached' or 'queue')
    if is_copy then
      redis.call('ZREM', flight, item.uid)
    elseif mode == 'use' and not has_task(item) then
      redis.call('ZADD', flight, IN_LINE, item.uid)
    end
  end
  woken[item.place == 'cached' and item.place or item.route] = true
  -- The mark of a tombstone may outlive its entry: a claim may have stepped over that.
  if item.tombstone and redis.call('HDEL', item.key, 'tombstone') == 1 and stands_in_queue(item) then
    join_ring(item.route, queue_of(item), item.tenant)
  else
    enqueue(item, first)
  end
end

-- Decide about an item whose turn has come. True: it starts no call, since it is copied or joins its leader. False: it
-- starts, and leads if its flight has no leader.
local function stands_aside(item)
  local mode, name = flight_of(item)
  if not mode then return false end
  local flight = flight_key(name)
  local led, needs_call = is_led(flight, item), mode == 'refresh' or has_task(item)
  if not needs_call and answer_to(item, name) then
    redis.call('ZREM', DELAYED, item.uid)  -- it was woken
    queue_up(item, true)
    return true
  elseif not needs_call and led then
    redis.call('ZADD', flight, NOW_US, item.uid)
    set_place(item, 'joined')
    redis.call('ZADD', DELAYED, int(NOW + LOOK_AGAIN_US), item.uid)
    return true
  end
  if not led then redis.call('ZADD', flight, 0, item.uid) end
  return false
end

-- Take an ended or held item out of its flight; its picture or refusal stays for the others.
local function leave_flight(item)
  local mode, name = flight_of(item)
  if not mode then return end
  local flight = flight_key(name)
  local led = redis.call('ZSCORE', flight, item.uid) == '0'
  local made = item.state == 'succeeded' and item.place ~= 'cached'
  local refused = led and item.state == 'failed' and string.find(item.error, '"kind":"moderation_', 1, true)
  if made then
    local entry = '{"at_us":' .. NOW_US .. ',"from":"' .. item.uid .. '","result":' .. item.result .. '}'
    redis.call('SET', picture_key(name), entry, 'PX', retention_ms(true))
  elseif refused then
    redis.call('SET', refusal_key(name), NOW_US .. ' ' .. item.error, 'PX', REFUSAL_MS)
  end
  redis.call('ZREM', flight, item.uid)
  if led or made then wake_joined(flight) end
  if made or refused then wake(flight, IN_LINE, IN_LINE, true) end
end

-- The picture of this entry has left the store, so delete the entry.
local function forget_picture(item, entry)
  local _, name = flight_of(item)
  if name and redis.call('GET', picture_key(name)) == entry then redis.call('DEL', picture_key(name)) end
end
