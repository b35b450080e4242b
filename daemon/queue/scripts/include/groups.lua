-- Groups (a batch, or a job of several pictures) count their members by state; `open` counts the members not ended yet.
-- @include base
-- @include events
-- @include ring
-- @include transitions
local ACTIVE, DIRTY = P .. ':active', P .. ':dirty'
must_suit('ZCARD', ACTIVE, CLOSING)
must_suit('SCARD', DIRTY)
must_suit('HLEN', P .. ':installation')
local DAY_US = 24 * 3600 * 1000000

-- How long a record lives after its end: the value that replicas wrote, or a default before the first replica.
local kept = nil
local function retention_ms(has_succeeded)
  kept = kept or read_fields(P .. ':installation', 'records_us', 'failed_us')
  local us = has_succeeded and (kept.records_us or DAY_US) or (kept.failed_us or 7 * DAY_US)
  return math.max(1, math.ceil(tonumber(us) / 1000))
end

local PLACE = '([^|,]+)|([^,]+)'  -- one of a group's `places`: route and queue

-- The parked items of a batch may run now, in every queue.
local function rejoin(group)
  local tenant = string.match(group.gid, '^[^/]*')
  for route, queue in string.gmatch(group.places or '', PLACE) do
    join_ring(route, queue, tenant)
    woken[queue == 'cached' and queue or route] = true
  end
end

-- A batch with a cap has freed a place, since an entry has gone or a run has ended: a parked item may take it.
local function unpark(gid)
  if (gid or '') == '' then return end
  local group = read_fields(group_key(gid), 'max_in_flight', 'places')
  group.gid = gid
  if group.max_in_flight then rejoin(group) end
end

-- The janitor starts or removes the members' time to live, one page at a time.
local function close(group)
  redis.call('ZADD', CLOSING, NOW_US, group.gid)
  redis.call('HDEL', group.key, 'closed_to')
end

-- A group whose last member has ended gets its own final state, its event, and a place in the janitor's list.
local function finish_group(gid)
  local group = load_group(gid)
  if not group.state then return end
  close(group)
  -- A part of a cancelled batch may come after the end; its members then only need their time to live.
  if group.state ~= 'running' then return end
  local final = 'completed_with_errors'
  for _, state in ipairs({ 'expired', 'cancelled', 'failed' }) do
    if group[state] == group.total then final = state end
  end
  if group.succeeded == group.total then final = 'completed' end
  update(group, { state = GROUP_TRANSITIONS[final][group.state], finished_us = NOW_US })
  redis.call('ZREM', ACTIVE, gid)
  redis.call('SREM', DIRTY, gid)
  -- A pause ends with the group: the parked items are now tombstones, which only a claim clears.
  if redis.call('HDEL', group.key, 'paused') == 1 then rejoin(group) end
  if group.kind == 'batch' then
    emit('batch.finished', group, string.format(
      '"state":"%s","counts":{"total":%d,"queued":0,"throttled":0,"retry_wait":0,"running":0,"succeeded":%d,' ..
      '"failed":%d,"cancelled":%d,"expired":%d,"held":0},"seconds":%.3f',
      final, group.total, group.succeeded, group.failed, group.cancelled, group.expired,
      (NOW - tonumber(group.accepted_us)) / 1000000))
  end
end

-- The keys that end with a group. A stream of another type is somebody's.
local function own_keys(group)
  local keys, stream = { members_key(group.gid), group.key }, EVENTS .. ':' .. group.name
  if unless(WRONG_TYPE, 'XLEN', stream) then keys[#keys + 1] = stream end
  return keys
end

-- An ended group gets work again, from a person's retry or from a late part.
local function reopen_group(gid)
  local group = load_group(gid)
  local state = GROUP_TRANSITIONS.reopened[group.state]
  if not state then return end
  redis.call('HDEL', group.key, 'finished_us')
  update(group, { state = state })
  redis.call('ZADD', ACTIVE, NOW_US, gid)
  for _, key in ipairs(own_keys(group)) do redis.call('PERSIST', key) end
  close(group)
end

-- Count one member from one state to another; the last member to end closes its group.
local function count_member(gid, from, to)
  local key = group_key(gid)
  redis.call('HINCRBY', key, from, -1)
  redis.call('HINCRBY', key, to, 1)
  redis.call('SADD', DIRTY, gid)
  local change = (FINAL[from] and 1 or 0) - (FINAL[to] and 1 or 0)
  if change ~= 0 then
    local open = redis.call('HINCRBY', key, 'open', change)
    if open == 0 and tonumber(redis.call('HGET', key, 'parts_left')) <= 0 then finish_group(gid) end
  end
end
