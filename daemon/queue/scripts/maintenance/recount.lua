-- Count again what P:depth and the running groups have counted, and put wrong counts right.
-- KEYS  1 prefix
-- ARGS  most: the records that one call looks at,
--       route and queues: the route that is counted; or without a route, from: the rank of the first group
-- Returns  { the number of counts that were wrong, the rank of the next group or -1 at the end }
-- One step for each route and each group, since a count is right only together with the records that it counts. A route or
-- a group with more than `most` records is not counted. Counts go wrong when a script breaks off, for example at a key of
-- another type.
-- @include base
-- @include states

local wrong = 0
local function correct(key, field, count)
  if number(redis.call('HGET', key, field)) == count then return end
  redis.call('HSET', key, field, int(count))
  wrong = wrong + 1
end

-- Held items stand in no list, so their counts stay as they are.
local function recount_route(route)
  local list = P .. ':waiting:' .. route
  if redis.call('ZCARD', list) > ARGS.most then return end
  local sums = {}
  for _, queue in ipairs(ARGS.queues) do
    -- Without its group the stream does not know what runs. The records do, so the count stays as it is.
    local pending = unless({ 'NOGROUP', 'WRONGTYPE' }, 'XPENDING', stream_key(route, queue), 'workers')
    if pending then sums[route .. '|' .. queue .. '|running'] = pending[1] end
    for state in pairs(WAITING) do sums[route .. '|' .. queue .. '|' .. state] = 0 end
  end
  for state in pairs(WAITING) do sums[route .. '|joined|' .. state] = 0 end
  for _, uid in ipairs(redis.call('ZRANGE', list, 0, -1)) do
    local item = read_fields(item_key(uid), 'state', 'place', 'lane')
    if WAITING[item.state] then count(sums, route .. '|' .. queue_of(item) .. '|' .. item.state, 1)
    else redis.call('ZREM', list, uid) end
  end
  for field, sum in pairs(sums) do correct(P .. ':depth', field, sum) end
end

-- A member without a record is still to be accepted, and counts as queued.
local function recount_group(gid)
  local group = load_group(gid)
  if group.state ~= 'running' then return end
  local sums, open = { queued = number(group.total) }, number(group.total)
  for _, state in ipairs({ 'running', 'retry_wait', 'throttled', 'succeeded', 'failed', 'cancelled', 'expired', 'held' }) do
    sums[state] = 0
  end
  for _, uid in ipairs(redis.call('ZRANGE', members_key(gid), 0, -1)) do
    local state = redis.call('HGET', item_key(uid), 'state') or 'queued'
    if state ~= 'queued' then
      count(sums, 'queued', -1)
      count(sums, state, 1)
    end
    if FINAL[state] then open = open - 1 end
  end
  for state, sum in pairs(sums) do correct(group.key, state, sum) end
  correct(group.key, 'open', open)
  if open == 0 and number(group.parts_left) <= 0 then finish_group(gid) end
end

-- Count groups until the budget is used. A group itself counts as one record.
local function recount_groups()
  local left = ARGS.most
  for _, gid in ipairs(redis.call('ZRANGE', ACTIVE, ARGS.from, ARGS.from + ARGS.most)) do
    local members = redis.call('ZCARD', members_key(gid))
    local is_counted = members < ARGS.most
    left = left - 1 - (is_counted and members or 0)
    if left < 0 then return redis.call('ZRANK', ACTIVE, gid) end
    if is_counted then recount_group(gid) end
  end
end

if ARGS.route then recount_route(ARGS.route) end
local following = not ARGS.route and recount_groups() or -1
conclude()
return { wrong, following }
