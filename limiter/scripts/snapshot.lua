-- What the quotas look like at this instant; changes nothing.
--
-- KEYS   1 clock   2 unused   3..S cooldown and pause of each quota   S+1.. the books
-- ARGV   1 test clock (µs or '')   2 S   3.. rows of eight, as in acquire.lua
-- Returns one reply a row: cooldown {rest (µs), generation, reason}; pause {reason} or {}; a rate {units that could
--         be granted now}; in_flight {weight of the live leases}.
--
-- Why atomic: figures of one instant add up.
-- @include clock
-- @include slices
-- @include tokens
-- @include day
-- @include leases
local FIELDS = 8
local strings = redis.call('MGET', unpack(KEYS, 1, tonumber(ARGV[2])))
local clock = clock_read(strings[1], ARGV[1], '', '')
local now = clock.now
local show = {}

function show.cooldown(key)
  if not strings[key] then return {'0', '0', ''} end
  local ends, generation, reason = string.match(strings[key], '^(%S+) (%S+) (.*)$')
  return {text(math.max(0, tonumber(ends) - now)), generation, reason}
end

function show.pause(key)
  if not strings[key] then return {} end
  local ends, reason = string.match(strings[key], '^(%S+) (.*)$')
  if tonumber(ends) ~= 0 and tonumber(ends) <= clock.wall then return {} end
  return {reason}
end

-- Reservations count as used: nothing can be granted now that one of them would miss.
function show.window(key, count, span)
  return {text(math.max(0, count - redis.call('ZCOUNT', KEYS[key], '(' .. text(now - span), '+inf')))}
end

function show.slices(key, count, span)
  local read, used = slices_load(KEYS[key], span), 0
  local oldest = math.floor(now / read.width) - math.ceil(span / read.width)
  for slice, uses in pairs(read) do
    if type(slice) == 'number' and slice >= oldest then used = used + uses end
  end
  return {text(math.max(0, count - used))}
end

function show.tokens(key, count, period, burst)
  return {text(tokens_now(tokens_load(KEYS[key], period, count, tonumber(burst), now, clock.lost), now))}
end

function show.day(key, count, _, midnights)
  local read = day_load(KEYS[key], midnights)
  local today = day_of(read, clock.wall)
  return {text(math.max(0, count - (today and read.used[read.starts[today]] or 0)))}
end

function show.in_flight(key)
  return {text(leases_in_use(KEYS[key], now))}
end

local rows = {}
for row = 3, #ARGV, FIELDS do
  rows[#rows + 1] = show[ARGV[row]](
    tonumber(ARGV[row + 1]), tonumber(ARGV[row + 4]), tonumber(ARGV[row + 5]), ARGV[row + 6])
end
return rows
