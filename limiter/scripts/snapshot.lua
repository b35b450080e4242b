-- Read the state of quotas at one instant; changes nothing.
--
-- KEYS   1 clock   2 unused   3 spread   rest: see include/rows.lua
-- ARGV   1 test clock (µs or '')   2 number of quotas   rest: see include/rows.lua; each cost is 1
-- Returns for each quota {pause reason or '', 1 if paused, cooldown (µs), generation, its reason, learned level (ppm),
--         end of the pause (µs from now, 0: none)}, then one figure a row: for a rate the units that could be granted
--         now, for calls in flight {weight of the live leases, places}.
--
-- Why atomic: only figures of one instant add up.
-- @include clock
-- @include rows
-- @include rates
-- @include changed
-- @include leases
local strings = strings_read(2)
local clock = clock_read(strings[1], ARGV[1], '', '')
local now = clock.now
local quotas, rows = rows_read(2, strings)
local reply = {}

for _, quota in ipairs(quotas) do
  local ends, reason = pause_read(quota.pause)
  local paused = ends ~= nil and (ends == 0 or ends > clock.wall)
  local rest = math.max(0, quota.cooldown.ends - now)
  reply[#reply + 1] = {
    paused and reason or '', paused and 1 or 0, text(rest), quota.cooldown.generation,
    rest > 0 and quota.cooldown.reason or '', text(quota.learned and quota.learned.level or ADAPT_PPM),
    text(paused and ends > 0 and ends - clock.wall or 0),
  }
end

local function free(row)
  if changed_until(row, clock) > now then return 0 end
  rate_load(row, clock)
  if row.kind == 'tokens' then return tokens_now(row.book, now) end
  local others = row.others and now < row.others.ends and row.others.cost or 0
  return math.max(0, row.count - rate_used_now(row, clock) - others)
end

for _, row in ipairs(rows) do
  if row.kind == 'in_flight' then
    reply[#reply + 1] = {leases_in_use(row.key, now), places_now(row.quota.places, row.count, now)}
  else
    reply[#reply + 1] = {text(free(row))}
  end
end
return reply
