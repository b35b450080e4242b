-- @include numbers
-- Calls in flight: a sorted set of `GRANT:k REQUEST HOLDER`, one member for each unit of weight, scored by the end of its
-- lease. Once the provider has the job, that is at least the time by which the job must have ended, even if its worker
-- crashes.
-- A holder that finds no room stands in line, a hash `HOLDER` -> `first last weight` (µs of its first and last request). A
-- `+` in front says that the bell has called it since, at `last`. The turns go by the units in use, fewest first, then by the
-- time of waiting. So a holder that ends a call gets its place back, unless another one has fewer, or has waited longer with
-- as many.

-- How often a caller tries again while it waits for an operator's resume or a new day, whose time is unknown.
local LOOK_AGAIN_US = 1000000
-- The same for a place. The bell calls whoever is next in line, so this finds only lapsed leases, the places that grow back
-- after a refusal, and the turn of a holder that was called and has died.
local PLACE_LOOK_US = 5000000
-- A holder without a request for so long no longer stands in line; nor does one that does not come when it is called.
local WAITS_US = 8000000
local COMES_US = 500000
-- Others may overtake a waiting holder for so long; after that, freed places are kept for it.
local PATIENCE_US = 1000000
-- An expired lease stays for so long without counting, so that a stalled holder can still renew it.
local REVIVABLE_US = 60000000

local function leases_in_use(key, now)
  return redis.call('ZCOUNT', key, '(' .. text(now), '+inf')
end

local function lease_member(grant, unit, owner)
  return grant .. ':' .. unit .. ' ' .. owner
end

local function lease_end(key, grant, owner, weight)
  local freed = 0
  for unit = 1, weight do freed = freed + redis.call('ZREM', key, lease_member(grant, unit, owner)) end
  return freed
end

-- A request's record goes with its lease.
local function record_end(key, grant)
  local record = redis.call('GET', key)
  if record and string.match(record, '^%S+ (%S+)') == grant then redis.call('DEL', key) end
end

local function line_text(first, last, weight, called)
  return (called and '+' or '') .. text(first) .. ' ' .. text(last) .. ' ' .. text(weight)
end

local function line_read(stored)
  local called, first, last, weight = string.match(stored, '^(%+?)(%S+) (%S+) (%S+)$')
  return {first = tonumber(first), last = tonumber(last), weight = tonumber(weight), called = called ~= ''}
end

local function line_is_left(one, now)
  return now - one.last > (one.called and COMES_US or WAITS_US)
end

-- The holders in line, and the one that is requesting, in the order of their turns.
local function line_of(key, line, now, requesting)
  local flat, list = redis.call('HGETALL', line), {}
  for i = 1, #flat, 2 do
    local one = line_read(flat[i + 1])
    one.holder = flat[i]
    if one.holder == requesting then requesting = nil end
    if not line_is_left(one, now) then list[#list + 1] = one end
  end
  if #list == 0 then return list end
  if requesting then list[#list + 1] = {holder = requesting, first = now, weight = 0} end
  local used = {}
  for _, member in ipairs(#list > 1 and redis.call('ZRANGEBYSCORE', key, '(' .. text(now), '+inf') or {}) do
    local holder = string.match(member, '^%S+ %S+ (%S+)')
    used[holder] = (used[holder] or 0) + 1
  end
  table.sort(list, function(a, b)
    local mine, other = used[a.holder] or 0, used[b.holder] or 0
    if mine ~= other then return mine < other end
    if a.first ~= b.first then return a.first < b.first end
    return a.holder < b.holder
  end)
  return list
end

-- The time until the next try (µs); nil if there is room.
local function leases_retry(key, line, weight, count, holder, now)
  local room = count - leases_in_use(key, now)
  if weight <= room then
    for _, other in ipairs(line_of(key, line, now, holder)) do
      if other.holder == holder then break end
      if now - other.first >= PATIENCE_US then room = room - other.weight end
    end
    if weight <= room then return nil end
  end
  return PLACE_LOOK_US
end

local function line_join(line, weight, holder, now)
  local first, flat = now, redis.call('HGETALL', line)
  for i = 1, #flat, 2 do
    local one = line_read(flat[i + 1])
    if line_is_left(one, now) then
      redis.call('HDEL', line, flat[i])
    elseif flat[i] == holder then
      first = one.first
    end
  end
  redis.call('HSET', line, holder, line_text(first, now, weight, false))
  keep_for(line, WAITS_US)
end

-- Call the holders whose turn it is, each once for each of its requests, and add them to `names`. `free` are all units that
-- are free, or, with `more`, only those that became free just now. The `requesting` holder knows already.
local function line_call(key, line, free, more, now, requesting, names)
  for _, one in ipairs(free > 0 and line_of(key, line, now) or {}) do
    if free <= 0 then break end
    if not (more and one.called) then free = free - one.weight end
    if not one.called and one.holder ~= requesting then
      redis.call('HSET', line, one.holder, line_text(one.first, now, one.weight, true))
      if not names[one.holder] then names[#names + 1] = one.holder end
      names[one.holder] = true
    end
  end
end

-- Ring for the holders that were called.
local function line_ring(channel, names)
  if #names > 0 then redis.call('PUBLISH', channel, 'slot ' .. table.concat(names, ' ')) end
end

local function leases_charge(key, weight, grant, owner, expiry, now)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now - REVIVABLE_US))
  for unit = 1, weight do redis.call('ZADD', key, text(expiry), lease_member(grant, unit, owner)) end
  keep_for(key, expiry - now)
end
