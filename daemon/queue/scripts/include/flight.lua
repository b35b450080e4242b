-- Single flight: one of several identical items (`cache: use`) is made; the others wait for it and get a copy.
-- A flight is a sorted set. Score 0 is the leader, which runs or has a task. A negative score is an item in line, in its own
-- lane. A positive score is a follower, which stands in no queue. Both scores are the item's `since_us`.
-- The first item that starts leads, so no item waits for a leader whose turn has not come. When a leader stops, or a picture
-- is there, its flight is due. A look at it then queues its members again, some at a time.
-- @include base
-- @include counts
-- @include receipts
-- @include ring
-- @include groups
local FLIGHTS = P .. ':flights'  -- flights by the time of the next look at them
local LOOK_AGAIN_US = 60000000  -- a pause may stop a leader that waits with its task, and no event tells its followers
local REFUSAL_MS = 60000  -- how long followers can read their leader's refusal

local function flight_key(kind, flight) return P .. ':' .. kind .. ':' .. flight end

-- A flight's answer without a call: the newest `since_us` that it is for, the picture, the refusal, and when that was made.
-- Only items that already waited get a refusal; the provider may answer a later call differently.
local function answer_of(flight)
  local picture = redis.call('GET', flight_key('picture', flight))
  if picture then return 'inf', picture, '', string.match(picture, '^{"at_us":(%d+)') end
  local at_us, refusal = string.match(redis.call('GET', flight_key('refusal', flight)) or '0 ', '^(%d+) (.*)$')
  return at_us, '', refusal, at_us
end

-- An item with a task may have paid for its picture, so it leads also while it waits. A paused one does not lead, since
-- its pause may have no end.
local function may_lead(item)
  if item.state == 'running' then return item.place ~= 'cached' end
  return WAITING[item.state] and has_task(item) and redis.call('HEXISTS', group_key(item.group), 'paused') == 0
end

local function leader_of(flight)
  local leader = redis.call('ZRANGEBYSCORE', flight_key('flight', flight), 0, 0)[1]
  if not leader or may_lead(load_item(leader)) then return leader end
  redis.call('ZREM', flight_key('flight', flight), leader)
end

-- Update an item's flight after a move: the item leads if it may and no other does, and offers what its call has brought.
local function update_flight(item)
  local flight = item.flight
  if not flight then return end
  local key = flight_key('flight', flight)
  local led = redis.call('ZSCORE', key, item.uid) == '0'
  local leads = may_lead(item) and (leader_of(flight) or item.uid) == item.uid
  if leads then redis.call('ZADD', key, 0, item.uid) else redis.call('ZREM', key, item.uid) end
  local made = item.state == 'succeeded' and item.place ~= 'cached'
  if made then
    local entry = '{"at_us":' .. NOW_US .. ',"from":"' .. item.uid .. '","result":' .. item.result .. '}'
    redis.call('SET', flight_key('picture', flight), entry, 'PX', retention_ms(true))
  elseif led and item.state == 'failed' and string.find(item.error, '"kind":"moderation_', 1, true) then
    redis.call('SET', flight_key('refusal', flight), NOW_US .. ' ' .. item.error, 'PX', REFUSAL_MS)
  end
  if leads or led or made then redis.call('ZADD', FLIGHTS, 'LT', int(NOW + (leads and LOOK_AGAIN_US or 0)), flight) end
end

-- Where an item waits, and its score if it is a member of its flight there.
local function place_for(item)
  if item.cache ~= 'use' or has_task(item) then return 'queue' end
  local newest_us = answer_of(item.flight)
  if tonumber(item.since_us) <= tonumber(newest_us) then return 'cached' end
  if leader_of(item.flight) then return 'joined', item.since_us end
  return 'queue', '-' .. item.since_us
end

-- Queue an item: to be copied if its answer exists, with its leader if there is one, else in its lane.
local function queue_up(item, first)
  local place, score = place_for(item)
  if place ~= item.place then
    count_depth(item, item.state, -1)
    update(item, { place = place })
    count_depth(item, item.state, 1)
  end
  if score then redis.call('ZADD', flight_key('flight', item.flight), score, item.uid) else update_flight(item) end
  if place == 'joined' then return end
  woken[place == 'cached' and place or item.route] = true
  -- The mark of a tombstone may outlive its entry: a claim may have stepped over that.
  if item.tombstone and redis.call('HDEL', item.key, 'tombstone') == 1 and stands_in_queue(item) then
    join_ring(item.route, queue_of(item), item.tenant)
  else
    enqueue(item, first)
  end
end

-- Queue again the members of a due flight that have an answer or lack a leader, at most `most`; the flight stays due for the
-- rest. Returns how many members it looked at.
local function look_at(flight, most)
  local leader, newest_us = leader_of(flight), answer_of(flight)
  local uids = redis.call('ZRANGEBYSCORE', flight_key('flight', flight), '-' .. newest_us, leader and newest_us or 'inf',
    'LIMIT', 0, most)
  redis.call('ZREM', FLIGHTS, flight)
  if #uids > 0 then redis.call('ZADD', FLIGHTS, int(NOW + (#uids < most and LOOK_AGAIN_US or 0)), flight) end
  for _, uid in ipairs(uids) do
    local item = load_item(uid)
    if WAITING[item.state] and uid ~= leader then
      queue_up(item, true)
    elseif not item.state then
      redis.call('ZREM', flight_key('flight', flight), uid)  -- the record has vanished
    end
  end
  return #uids
end

-- The picture of this entry has left the store, so delete the entry.
local function forget_picture(item, entry)
  local key = flight_key('picture', item.flight)
  if redis.call('GET', key) == entry then redis.call('DEL', key) end
end
