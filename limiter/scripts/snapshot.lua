-- What the quotas look like at this instant; changes nothing.
--
-- KEYS   1..S strings: cooldown and pause of each quota, token buckets   S+1.. logs and leases
-- ARGV   1 test clock (µs or '')   2 S   3.. rows of seven, as in acquire.lua
-- Returns one reply a row: cooldown {rest (µs), generation, reason}; pause {reason} or {}; window and bucket
--         {units that could be granted now}; in_flight {live leases}.
--
-- Why atomic: figures of one instant add up.
-- @include now
-- @include bucket
local FIELDS = 7
local now = time_us(ARGV[1])
local strings = redis.call('MGET', unpack(KEYS, 1, tonumber(ARGV[2])))
local show = {}

function show.cooldown(key)
  if not strings[key] then return {'0', '0', ''} end
  local ends, generation, reason = string.match(strings[key], '^(%S+) (%S+) (.*)$')
  return {text(math.max(0, tonumber(ends) - now)), generation, reason}
end

function show.pause(key)
  if not strings[key] then return {} end
  local ends, reason = string.match(strings[key], '^(%S+) (.*)$')
  if tonumber(ends) ~= 0 and tonumber(ends) <= now then return {} end
  return {reason}
end

function show.window(key, count, span)
  return {text(math.max(0, count - redis.call('ZCOUNT', KEYS[key], '(' .. text(now - span), '+inf')))}
end

function show.bucket(key, count, period, burst)
  local updated, credit = bucket_read(strings[key], now, period, burst)
  return {text(math.max(0, math.floor(bucket_credit_at(now, updated, credit, count, period, burst) / period)))}
end

function show.in_flight(key)
  return {text(redis.call('ZCOUNT', KEYS[key], '(' .. text(now), '+inf'))}
end

local rows = {}
for row = 3, #ARGV, FIELDS do
  rows[#rows + 1] = show[ARGV[row]](
    tonumber(ARGV[row + 1]), tonumber(ARGV[row + 4]), tonumber(ARGV[row + 5]), tonumber(ARGV[row + 6]))
end
return rows
