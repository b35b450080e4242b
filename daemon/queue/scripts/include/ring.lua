-- The fair ring of a route's lane. Each tenant keeps at most one waiting entry in the ready stream (it is then
-- a field of the ring, a hash of tenant to item); its other items stand in backlogs, one for each of its batches and
-- one for its single jobs, and those sources take turns. So the ring's size is the number of undelivered entries.
local function ring_key(route, lane) return P .. ':ring:' .. route .. ':' .. lane end
local function turns_key(route, lane, tenant) return P .. ':turns:' .. route .. ':' .. lane .. ':' .. tenant end
local function backlog_key(route, lane, tenant, source)
  return P .. ':backlog:' .. route .. ':' .. lane .. ':' .. tenant .. '/' .. source
end

-- A batch may lower its own concurrency (max_in_flight); what waits in the ring counts as running. A copy makes no call, so
-- it does not wait for that, though it counts like any other. While a batch is paused nothing of it may run. Returns
-- whether the source has such a cap, and whether it is held back in this lane.
local function cap_of(tenant, source, lane)
  if source == '' then return false, false end
  local fields = redis.call('HMGET', group_key(tenant .. '/' .. source), 'max_in_flight', 'running', 'in_ring', 'paused')
  local paused = fields[4] and true or false
  if not fields[1] then return false, paused end
  local full = (tonumber(fields[2]) or 0) + (tonumber(fields[3]) or 0) >= tonumber(fields[1])
  return true, paused or (full and lane ~= 'cached')
end

-- Give the tenant its next waiting entry: the first source in turn that may run; it goes to the end of the turns.
local function release(route, lane, tenant)
  local turns = turns_key(route, lane, tenant)
  for _ = 1, redis.call('LLEN', turns) do
    local source = redis.call('LPOP', turns)
    local capped, full = cap_of(tenant, source, lane)
    if full then
      redis.call('RPUSH', turns, source)
    else
      local backlog = backlog_key(route, lane, tenant, source)
      local uid = redis.call('LPOP', backlog)
      if redis.call('EXISTS', backlog) == 1 then redis.call('RPUSH', turns, source) end
      if uid then
        if capped then redis.call('HINCRBY', group_key(tenant .. '/' .. source), 'in_ring', 1) end
        redis.call('XADD', stream_key(route, lane), '*', 'u', uid)
        redis.call('HSET', ring_key(route, lane), tenant, uid)
        return true
      end
    end
  end
  redis.call('HDEL', ring_key(route, lane), tenant)
  return false
end

-- Make sure that a tenant with work that may run has its entry in the ring.
local function join_ring(route, lane, tenant)
  if redis.call('HEXISTS', ring_key(route, lane), tenant) == 0 then release(route, lane, tenant) end
end

-- Queue an item; `first` puts it before its source's others (it has waited already).
local function enqueue(uid, route, lane, first)
  local tenant, source = split_uid(uid)
  local backlog = backlog_key(route, lane, tenant, source)
  local length = redis.call(first and 'LPUSH' or 'RPUSH', backlog, uid)
  if length == 1 then redis.call('RPUSH', turns_key(route, lane, tenant), source) end
  join_ring(route, lane, tenant)
end

-- Whether an item is its tenant's waiting entry or in its source's backlog; a walk through that, so not for every item.
local function stands(uid, route, lane)
  local tenant, source = split_uid(uid)
  if redis.call('HGET', ring_key(route, lane), tenant) == uid then return true end
  return redis.call('LPOS', backlog_key(route, lane, tenant, source), uid) ~= false
end

-- The entry of a source has left the ring, which counts where it has a cap. Returns whether the source is paused.
local function left_ring(tenant, source)
  if source == '' then return false end
  local group = group_key(tenant .. '/' .. source)
  local fields = redis.call('HMGET', group, 'max_in_flight', 'paused')
  if fields[1] then redis.call('HINCRBY', group, 'in_ring', -1) end
  return fields[2] and true or false
end

-- One knock for each route that got work, at the script's end; dispatchers also look by themselves, so a lost knock only
-- costs time.
local woken = {}
local function ring_bell()
  for route in pairs(woken) do redis.call('PUBLISH', P .. ':bell', 'work ' .. route) end
end
