-- Grant one call under all limits of all its quotas at one common slot, or charge nothing.
--
-- KEYS   1..S      strings: cooldown and pause of each quota, token buckets
--        S+1..     sorted sets: logs and leases
--        last      the request's own record
-- ARGV   1 test clock (µs or '')   2 max wait (µs)   3 lease (µs)   4 grant id   5 lease member   6 S
--        7..       rows of seven: kind, key index, bound, cost, count, span (µs), burst
--                  cooldown and pause use the first three; for a window, span is its period plus guard
-- Returns {1, wait (µs), grant id} granted, or {0, retry (µs), bound} and no key was changed.
--
-- Why atomic: a limit that is charged while another one refuses is quota lost, and a slot that is found in one
-- step and written in another is sold twice.
-- @include now
-- @include ttl
-- @include bucket

local FIELDS = 7
-- How often a caller looks again at what ends without announcing its time: a release, an operator's resume.
local LOOK_AGAIN_US = 1000000
-- An expired lease stays known for so long, uncounted: a holder that was only stalled can still renew it.
local REVIVABLE_US = 60000000

local now = time_us(ARGV[1])
local max_wait = tonumber(ARGV[2])
local lease = tonumber(ARGV[3])
local grant = ARGV[4]
local record = KEYS[#KEYS]

local function later(retry, bound)
  return {0, text(math.max(1, retry)), bound}
end

-- The same request again means that the first reply was lost: the answer is the grant it already has.
local known = redis.call('GET', record)
if known then
  local slot, granted = string.match(known, '^(%S+) (%S+)')
  return {1, text(math.max(0, tonumber(slot) - now)), granted}
end

local strings = redis.call('MGET', unpack(KEYS, 1, tonumber(ARGV[6])))

-- Each kind of limit answers: from which slot on does it have room? Slots are only appended, never before one
-- that was granted already, so every limit that has room at a slot has room at each later one too, and the
-- latest answer is the earliest common slot. (Limits that fill gaps would have to be asked again until all
-- agree.)
local earliest = {}

function earliest.cooldown(stored)
  return stored and tonumber(string.match(stored, '^%S+')) or now
end

function earliest.window(key, cost, count, span)
  local newest = redis.call('ZREVRANGE', KEYS[key], 0, 0, 'WITHSCORES')[2]
  if not newest then return now end
  local slot = tonumber(newest)
  -- With `cost` more entries there may be count - cost others in (slot - span, slot]: the next older one must
  -- have left.
  local leaving = redis.call('ZREVRANGE', KEYS[key], count - cost, count - cost, 'WITHSCORES')[2]
  if leaving then slot = math.max(slot, tonumber(leaving) + span) end
  return slot
end

function earliest.bucket(stored, cost, count, period, burst)
  local updated, credit = bucket_read(stored, now, period, burst)
  return updated + math.max(0, math.ceil((cost * period - credit) / count))
end

-- Phase 1, read only: the slot, and what binds.
local slot, bound = now, nil
local full, full_retry = nil, 0
for row = 7, #ARGV, FIELDS do
  local kind, key = ARGV[row], tonumber(ARGV[row + 1])
  local cost, count = tonumber(ARGV[row + 3]), tonumber(ARGV[row + 4])
  local span, burst = tonumber(ARGV[row + 5]), tonumber(ARGV[row + 6])
  local at = now
  if kind == 'cooldown' then
    at = earliest.cooldown(strings[key])
  elseif kind == 'window' then
    at = earliest.window(key, cost, count, span)
  elseif kind == 'bucket' then
    at = earliest.bucket(strings[key], cost, count, span, burst)
  elseif kind == 'pause' and strings[key] then
    local until_us = tonumber(string.match(strings[key], '^%S+'))
    if until_us == 0 then return later(LOOK_AGAIN_US, ARGV[row + 2]) end
    if until_us > now then return later(math.min(until_us - now, LOOK_AGAIN_US), ARGV[row + 2]) end
  elseif kind == 'in_flight' and redis.call('ZCOUNT', KEYS[key], '(' .. text(now), '+inf') >= count then
    local first = redis.call('ZRANGEBYSCORE', KEYS[key], '(' .. text(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    local retry = math.min(tonumber(first) - now, LOOK_AGAIN_US)
    if retry > full_retry then full, full_retry = ARGV[row + 2], retry end
  end
  if at > slot then slot, bound = at, ARGV[row + 2] end
end

-- Denied before anything is written. Asking again when the slot is `max_wait` away is asking early enough.
local wait = slot - now
if wait > max_wait and wait - max_wait >= full_retry then return later(wait - max_wait, bound) end
if full then return later(full_retry, full) end

-- Phase 2: charge every limit at that slot.
for row = 7, #ARGV, FIELDS do
  local kind, key = ARGV[row], tonumber(ARGV[row + 1])
  local cost, count = tonumber(ARGV[row + 3]), tonumber(ARGV[row + 4])
  local span, burst = tonumber(ARGV[row + 5]), tonumber(ARGV[row + 6])
  if kind == 'window' then
    redis.call('ZREMRANGEBYSCORE', KEYS[key], '-inf', text(now - span))
    for unit = 1, cost do redis.call('ZADD', KEYS[key], text(slot), grant .. ':' .. unit) end
    redis.call('PEXPIRE', KEYS[key], ttl_ms(wait + span))
  elseif kind == 'bucket' then
    local updated, credit = bucket_read(strings[key], now, span, burst)
    local left = bucket_credit_at(slot, updated, credit, count, span, burst) - cost * span
    local full_in = math.ceil((burst * span - left) / count)
    redis.call('SET', KEYS[key], string.format('%.0f %.0f %.0f %s %.0f %.0f', slot, left, span, grant, updated, credit),
      'PX', ttl_ms(wait + full_in))
  elseif kind == 'in_flight' then
    redis.call('ZREMRANGEBYSCORE', KEYS[key], '-inf', text(now - REVIVABLE_US))
    redis.call('ZADD', KEYS[key], text(slot + lease), ARGV[5])
    keep_for(KEYS[key], wait + lease)
  end
end
-- Half a lease only, so that a repeated request never finds a grant whose lease is about to end.
redis.call('SET', record, text(slot) .. ' ' .. grant, 'PX', text(math.ceil((wait + lease / 2) / 1000)))
return {1, text(wait), grant}
