-- What the quotas look like at this instant; changes nothing.
--
-- KEYS   1 clock   2 unused   3 spread   then five of each quota, rest: the books, as in acquire.lua
-- ARGV   1 test clock (µs or '')   2 number of quotas   then of each: name, fingerprint   rest: rows of nine, as there
-- Returns of each quota {pause reason or '', 1 if paused, cooldown (µs), generation, its reason, learned level (ppm),
--         end of the pause (µs from now, 0: open)}, then one figure a row: of a rate the units that could be granted
--         now, of calls in flight {weight of the live leases, places}.
--
-- Why atomic: figures of one instant add up.
-- @include clock
-- @include quota
-- @include slices
-- @include tokens
-- @include day
-- @include fixed
-- @include leases
local FIELDS = 9
local quotas_n = tonumber(ARGV[2])
local strings = redis.call('MGET', unpack(KEYS, 1, 3 + QUOTA_STRINGS * quotas_n))
local clock = clock_read(strings[1], ARGV[1], '', '')
local now = clock.now
local rows, quotas = {}, {}

for q = 1, quotas_n do
  local first = 3 + QUOTA_STRINGS * (q - 1)
  local quota = {
    cooldown = cooldown_read(strings[first + 2]), places = strings[first + 3],
    learned = learned_read(strings[first + 4], ARGV[2 + 2 * q]), others = strings[first + 5],
  }
  local ends, reason = pause_read(strings[first + 1])
  local paused = ends ~= nil and (ends == 0 or ends > clock.wall)
  local rest = math.max(0, quota.cooldown.ends - now)
  quotas[q] = quota
  rows[q] = {
    paused and reason or '', paused and 1 or 0, text(rest), quota.cooldown.generation,
    rest > 0 and quota.cooldown.reason or '', text(quota.learned and quota.learned.level or ADAPT_PPM),
    text(paused and ends > 0 and ends - clock.wall or 0),
  }
end

local show = {}

-- Reservations count as used: nothing can be granted now that one of them would miss.
function show.window(row)
  return redis.call('ZCOUNT', row.key, '(' .. text(now - row.span), '+inf')
end

function show.slices(row)
  local read, used = slices_load(row.key, row.span), 0
  local oldest = math.floor(now / read.width) - math.ceil(row.span / read.width)
  for slice, uses in pairs(read) do
    if type(slice) == 'number' and slice >= oldest then used = used + uses end
  end
  return used
end

function show.fixed(row)
  local read = fixed_load(row.key, row.span, clock.wall)
  return read.used[text(fixed_number(read, clock.wall))] or 0
end

function show.day(row)
  local read = day_load(row.key, row.extra)
  local today = day_of(read, clock.wall)
  return today and read.used[read.starts[today]] or 0
end

for i = 3 + 2 * quotas_n, #ARGV, FIELDS do
  local quota, kind = quotas[tonumber(ARGV[i])], ARGV[i + 1]
  local row = {
    kind = kind, key = KEYS[tonumber(ARGV[i + 2])], unit = ARGV[i + 3], cost = 1,
    count = tonumber(ARGV[i + 5]), span = tonumber(ARGV[i + 6]), extra = ARGV[i + 7],
  }
  row.period = period_of(row)
  if kind == 'in_flight' then
    rows[#rows + 1] = {leases_in_use(row.key, now), places_now(quota.places, row.count, now)}
  elseif kind == 'tokens' then
    limit_now(row, quota, 0)
    local burst, lag = tokens_shape(row.extra)
    local read = tokens_load(row.key, row.span, row.count, burst, lag, now, clock.lost)
    rows[#rows + 1] = {text(tokens_now(read, now))}
  else
    if kind ~= 'day' then limit_now(row, quota, tonumber(strings[3]) or 0) end
    local others = others_read(quota.others, row.unit, row.period)
    local used = show[kind](row) + (others and now < others.ends and others.cost or 0)
    rows[#rows + 1] = {text(math.max(0, row.count - used))}
  end
end
return rows
