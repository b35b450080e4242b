-- The fair ring of a queue (a lane of a route, or `cached`). Each tenant has at most one waiting entry in the ready stream.
-- The ring is a hash of tenant to the item of that entry, so its size is the number of undelivered entries. A tenant's other
-- items stand in backlogs: one for each batch, and one for its single jobs. These sources take turns.
-- @include base
local function ring_key(route, queue) return P .. ':ring:' .. route .. ':' .. queue end
local function backlog_key(route, queue, tenant, source)
  return P .. ':backlog:' .. route .. ':' .. queue .. ':' .. tenant .. '/' .. source
end
-- The list of a route's items that wait for one of its accounts alone, in no queue; and its name in the hash P:asides of
-- all such lists, since a configuration may lose a route that has one.
local function aside_key(route, account) return P .. ':aside:' .. route .. ':' .. account, route .. '|' .. account end

-- Fail if a key that the items of a queue share has another type. A script looks at them before its first write, too.
local looked_at = {}
local function must_suit_queue(route, queue)
  local name = route .. '|' .. queue
  if looked_at[name] then return end
  if not looked_at[route] then must_suit('ZCARD', P .. ':waiting:' .. route) end
  looked_at[route], looked_at[name] = true, true
  must_suit('HLEN', ring_key(route, queue))
  must_suit('XLEN', stream_key(route, queue))
end

-- The same for all queues that an item may move between; an item without a record has none.
local function must_suit_item(item)
  if not item.route then return end
  must_suit_queue(item.route, item.lane)
  if item.cache then must_suit_queue(item.route, 'cached') end
end

local function has_cap(group, queue) return group.max_in_flight and queue ~= 'cached' end

-- Whether a source is a batch with a `max_in_flight`, and whether it is held back: paused, or with all its places taken.
-- An entry in the ring takes a place. A copy makes no call, so it does not wait for a place; it takes one while it runs.
local function cap_of(tenant, source, queue)
  if source == '' then return false, false end
  local group = read_fields(group_key(tenant .. '/' .. source), 'max_in_flight', 'running', 'in_ring', 'paused')
  if group.paused or not group.max_in_flight or queue == 'cached' then return has_cap(group, queue), group.paused end
  return true, tonumber(group.running) + tonumber(group.in_ring) >= tonumber(group.max_in_flight)
end

-- Give a tenant without a waiting entry this item as its entry.
local function enter(route, queue, tenant, uid)
  redis.call('XADD', stream_key(route, queue), '*', 'u', uid)
  redis.call('HSET', ring_key(route, queue), tenant, uid)
end

-- Give the tenant its next waiting entry, from the first source that is not held back; the source goes to the end.
local function release(route, queue, tenant)
  local turns = P .. ':turns:' .. route .. ':' .. queue .. ':' .. tenant
  local next_two = redis.call('LRANGE', turns, 0, 1)
  local rotates = #next_two == 2  -- a lone source stays where it is
  for _ = 1, rotates and redis.call('LLEN', turns) or #next_two do
    local source = rotates and redis.call('LPOP', turns) or next_two[1]
    local backlog = backlog_key(route, queue, tenant, source)
    local capped, held_back = cap_of(tenant, source, queue)
    local uid = not held_back and redis.call('LPOP', backlog)
    local stays = held_back or redis.call('EXISTS', backlog) == 1
    if rotates and stays then redis.call('RPUSH', turns, source) end
    if not rotates and not stays then redis.call('DEL', turns) end
    if uid then
      if capped then redis.call('HINCRBY', group_key(tenant .. '/' .. source), 'in_ring', 1) end
      enter(route, queue, tenant, uid)
      return true
    end
  end
  redis.call('HDEL', ring_key(route, queue), tenant)
  return false
end

-- Give a tenant an entry in the ring if it has work that may run.
local function join_ring(route, queue, tenant)
  if redis.call('HEXISTS', ring_key(route, queue), tenant) == 0 then release(route, queue, tenant) end
end

-- Put an item into its queue; `first` puts it before the others of its source, since it has already waited.
local function enqueue(item, first)
  local queue = queue_of(item)
  local has_entry = redis.call('HEXISTS', ring_key(item.route, queue), item.tenant) == 1
  -- Nothing holds single jobs back, so none waits behind a tenant without an entry.
  if item.batch == '' and not has_entry then return enter(item.route, queue, item.tenant, item.uid) end
  local backlog = backlog_key(item.route, queue, item.tenant, item.batch)
  if redis.call(first and 'LPUSH' or 'RPUSH', backlog, item.uid) == 1 then
    redis.call('RPUSH', P .. ':turns:' .. item.route .. ':' .. queue .. ':' .. item.tenant, item.batch)
  end
  if not has_entry then release(item.route, queue, item.tenant) end
end

-- Whether an item is its tenant's waiting entry or in its source's backlog. Slow: it walks through the backlog.
local function stands_in_queue(item)
  local queue = queue_of(item)
  if redis.call('HGET', ring_key(item.route, queue), item.tenant) == item.uid then return true end
  return redis.call('LPOS', backlog_key(item.route, queue, item.tenant, item.batch), item.uid) ~= false
end

-- The entry of an item has left the ring; update its batch's count if the batch has a cap. Returns whether that is paused.
local function left_ring(item, queue)
  if item.batch == '' then return false end
  local key = group_key(item.tenant .. '/' .. item.batch)
  local group = read_fields(key, 'max_in_flight', 'paused')
  if has_cap(group, queue) then redis.call('HINCRBY', key, 'in_ring', -1) end
  return group.paused ~= nil
end

-- Ring the bell once for each route that got work, at the script's end. Dispatchers also look by themselves, so a lost
-- message only costs time.
local woken = {}
local function ring_bell()
  for name in pairs(woken) do redis.call('PUBLISH', BELL, 'work ' .. name) end
end
