-- Count again what P:depth and the running groups have counted, and put wrong counts right.
-- KEYS  1 prefix
-- ARGS  routes, queues, most: the waiting items of a route and the members of a group that are counted in one call;
--       larger ones are left for later
-- Returns  the number of counts that were wrong
-- One step a call, since a count is right only together with the records that it counts. Counts go wrong when a script breaks
-- off, for example at a key of another type.
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
    local pending = redis.pcall('XPENDING', stream_key(route, queue), 'workers')
    sums[route .. '|' .. queue .. '|running'] = pending.err and 0 or pending[1]
    for state in pairs(WAITING) do sums[route .. '|' .. queue .. '|' .. state] = 0 end
  end
  for state in pairs(WAITING) do sums[route .. '|joined|' .. state] = 0 end
  for _, uid in ipairs(redis.call('ZRANGE', list, 0, -1)) do
    local item = load_item(uid)
    if WAITING[item.state] then count(sums, route .. '|' .. queue_of(item) .. '|' .. item.state, 1)
    else redis.call('ZREM', list, uid) end
  end
  for field, sum in pairs(sums) do correct(P .. ':depth', field, sum) end
end

-- A member without a record is still to be accepted, and counts as queued.
local function recount_group(gid)
  local group = load_group(gid)
  if group.state ~= 'running' or redis.call('ZCARD', members_key(gid)) > ARGS.most then return end
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

for _, route in ipairs(ARGS.routes) do recount_route(route) end
for _, gid in ipairs(redis.call('ZRANGE', ACTIVE, 0, -1)) do recount_group(gid) end
conclude()
return wrong
