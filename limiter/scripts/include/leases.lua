-- @include text
-- @include ttl
-- Calls in flight: a sorted set of `GRANT:k REQUEST HOLDER`, one member for each unit of weight, scored by the end of its
-- lease. Once the provider has the job, that is at least the time by which the job must have ended, even if its worker
-- crashes.
-- A holder that finds no room is noted in a hash `HOLDER` -> `first last weight` (µs of its first and last request). A
-- release rings for the holders that have waited longest, and their places are kept from others for a moment.

-- How often a caller tries again while it waits for a release or an operator's resume, whose time is unknown.
local LOOK_AGAIN_US = 1000000
-- A holder without a request for so long no longer counts as waiting.
local WAITS_US = 1500000
-- Lighter calls may overtake a waiting one for so long; after that, freed places are kept for it.
local PATIENCE_US = 1000000
-- An expired lease stays for so long without counting, so that a stalled holder can still renew it.
local REVIVABLE_US = 60000000

local function leases_in_use(key, now)
  return redis.call('ZCOUNT', key, '(' .. text(now), '+inf')
end

local function lease_member(grant, unit, owner)
  return grant .. ':' .. unit .. ' ' .. owner
end

-- The holders that wait at this moment, longest first.
local function waiting_list(key, now)
  local flat, list = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do
    local first, last, weight = string.match(flat[i + 1], '^(%S+) (%S+) (%S+)$')
    if now - tonumber(last) <= WAITS_US then
      list[#list + 1] = {holder = flat[i], first = tonumber(first), weight = tonumber(weight)}
    end
  end
  table.sort(list, function(a, b) return a.first < b.first or a.first == b.first and a.holder < b.holder end)
  return list
end

-- The time until the next try (µs); nil if there is room.
local function leases_retry(key, waiting, weight, count, holder, now)
  local room = count - leases_in_use(key, now)
  if weight <= room then
    for _, other in ipairs(waiting_list(waiting, now)) do
      if other.holder == holder or now - other.first < PATIENCE_US then break end
      room = room - other.weight
    end
    if weight <= room then return nil end
    return LOOK_AGAIN_US
  end
  local first = redis.call('ZRANGEBYSCORE', key, '(' .. text(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  return first and math.min(tonumber(first) - now, LOOK_AGAIN_US) or LOOK_AGAIN_US
end

local function leases_wait(waiting, weight, holder, now)
  local first, flat = text(now), redis.call('HGETALL', waiting)
  for i = 1, #flat, 2 do
    local since, last = string.match(flat[i + 1], '^(%S+) (%S+)')
    if now - tonumber(last) > WAITS_US then
      redis.call('HDEL', waiting, flat[i])
    elseif flat[i] == holder then
      first = since
    end
  end
  redis.call('HSET', waiting, holder, first .. ' ' .. text(now) .. ' ' .. text(weight))
  keep_for(waiting, WAITS_US)
end

local function leases_charge(key, waiting, weight, grant, owner, expiry, holder, now)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now - REVIVABLE_US))
  for unit = 1, weight do redis.call('ZADD', key, text(expiry), lease_member(grant, unit, owner)) end
  keep_for(key, expiry - now)
  redis.call('HDEL', waiting, holder)
end
