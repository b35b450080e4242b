-- Grant one call under all limits of all its quotas at one common slot, or charge nothing.
--
-- KEYS   1 clock   2 the request's own record   3 spread   then five of each quota, see include/quota.lua
--        rest: the books: logs, slices, tokens, days, leases, waiting
-- ARGV   1 test clock (µs or '')   2 max wait (µs)   3 lease (µs)   4 grant id   5 request id   6 holder
--        7 the epoch that the caller knows or ''   8 '1' if a refusal for a rate shall keep a turn   9 number of quotas
--        then of each quota: its name, the fingerprint of its configuration if it learns or ''
--        rest: rows of nine: number of the quota, kind, key index, unit, cost, count, span (µs), extra, indices of the
--        keys of kinds that the unit does not have now but may have had
--            window, slices   span: period and guard   extra: period
--            tokens           span: period   extra: burst and lag (µs)
--            fixed            span: period   extra: guard (µs) at either end of it
--            day              extra: midnights
--            in_flight        extra: key index of who waits
-- Returns {1, wait (µs), grant id, epoch, when granted, slot, changes, what is left} granted; the wait of a repeated
--         question may be below 0; {0, retry (µs), bound, epoch} refused and nothing charged; {0, retry (µs), bound,
--         epoch, grant id, slot} refused, with a turn: its slot is charged under all rates, and asked again it is found;
--         {2, server's time (µs)} if it is in none of the days that the midnights describe.
--         `changes`: `QUOTA old new ` (ppm) of each quota whose learned level changed. What is left: of each row that
--         has a log and learns, `QUOTA unit:period left `.
--
-- What a refusal may write: a turn if one is wanted, who waits for a place in flight, a backward step of the clock,
-- that state was lost, and what a limit takes over from a former kind.
-- A turn is what a grant is, without leases: whoever is asked in vain again and again is not overtaken for ever. It is
-- given up and searched anew each time it is asked for, so it follows gaps, pauses and changed limits.
-- Why atomic: a limit that is charged while another one refuses is quota lost, and a slot that is found in one
-- step and written in another is sold twice.
-- @include clock
-- @include quota
-- @include window
-- @include slices
-- @include tokens
-- @include day
-- @include fixed
-- @include leases
-- @include takeover
-- @include undo

local FIELDS = 9
-- Limits that keep disagreeing about the slot are asked so often; each question moves it on.
local ROUNDS = 64
local LEARNED_KEPT_US = 86400000000
-- Stands in a request's record where a grant has the time at which it was granted.
local TURN = '-'

local wants_turn, quotas_n = ARGV[8] == '1', tonumber(ARGV[9])
local strings = redis.call('MGET', unpack(KEYS, 1, 3 + QUOTA_STRINGS * quotas_n))
local clock = clock_read(strings[1], ARGV[1], ARGV[7], ARGV[4])
local now = clock.now
local max_wait, lease = tonumber(ARGV[2]), tonumber(ARGV[3])
local grant, who, holder = ARGV[4], ARGV[5] .. ' ' .. ARGV[6], ARGV[6]

-- The same request again means that the first reply was lost: the answer is the grant it already has.
local turn, turn_grant = strings[2], nil
if turn then
  local slot, granted, at = string.match(turn, '^(%S+) (%S+) (%S+)')
  if at ~= TURN then return {1, text(tonumber(slot) - now), granted, clock.epoch, at, slot, '', ''} end
  turn_grant = granted
end

local function later(retry, bound)
  if clock.urgent then clock_write(KEYS[1], clock) end
  local epoch = (strings[1] or clock.urgent) and clock.epoch or ''
  return {0, text(math.max(1, retry)), bound, epoch}
end

-- What was used before the state was lost is unknown, so a strict window waits for as long as it could matter.
local function after_loss(span)
  return clock.lost > 0 and clock.lost + math.min(span, LOST_US) or 0
end

-- Each kind that has a rate, by its name and not in a table of functions: those would be made anew for every question,
-- and what a script makes its server has to clear away.
-- The books of a row, read once.
local function load_books(row)
  local kind = row.kind
  if kind == 'slices' then return slices_load(row.key, row.span) end
  if kind == 'tokens' then return tokens_load(row.key, row.span, row.count, row.burst, row.lag, now, clock.lost) end
  if kind == 'fixed' then return fixed_load(row.key, row.span, clock.wall) end
  if kind == 'day' then return day_load(row.key, row.extra) end
end

-- Its earliest slot from one on, under a count.
local function own_next(row, count, slot)
  local kind = row.kind
  if kind == 'window' then
    slot = math.max(slot, after_loss(row.span))
    local gap = row.cost * (slot < row.paced and math.max(row.gap, row.even) or row.gap)
    if gap == 0 then return window_next(row.key, row.cost, count, row.span, slot) end
    return window_next_apart(row.key, row.cost, count, row.span, slot, gap)
  end
  if kind == 'slices' then
    local most = slot < row.paced and math.ceil(count / SLICES) or nil
    return slices_next(row.books, row.cost, count, row.span, math.max(slot, after_loss(row.span)), most)
  end
  if kind == 'tokens' then return tokens_next(row.books, row.cost, slot) end
  if kind == 'fixed' then return fixed_next(row.books, row.cost, count, tonumber(row.extra), clock.offset, slot) end
  return day_next(row.books, row.cost, count, clock.offset, slot)
end

-- Write it down; returns the field of a hash that was charged.
local function charge(row, slot)
  local kind = row.kind
  if kind == 'window' then return window_charge(row.key, row.cost, row.keep, grant, slot, now) end
  if kind == 'slices' then return slices_charge(row.key, row.books, row.cost, row.span, slot, now) end
  if kind == 'tokens' then return tokens_charge(row.key, row.books, row.cost, grant, slot, now) end
  if kind == 'fixed' then return fixed_charge(row.key, row.books, row.cost, clock.offset, slot, clock.wall) end
  return day_charge(row.key, row.books, row.cost, clock.offset, slot, clock.wall)
end

-- Use by others counts like our own until it ends; also a slot after that may be the earlier one.
local function next_slot(row, slot)
  local others = row.others
  if not others or slot >= others.ends then return own_next(row, row.count, slot) end
  if others.cost + row.cost <= row.count then
    local at = own_next(row, row.count - others.cost, slot)
    if at < others.ends then return at end
  end
  return own_next(row, row.count, others.ends)
end

-- A poll is about a call that has been sent and may be paid for; what stops new calls does not stop it.
local first_row = 10 + 2 * quotas_n
local polling = first_row <= #ARGV
for i = first_row, #ARGV, FIELDS do polling = polling and ARGV[i + 3] == 'polls' end

-- A turn is looked for anew, also by who wants none any more.
if turn then
  redis.call('DEL', KEYS[2])
  local undone = {}
  local function undo_once(index, cost)
    local key = KEYS[tonumber(index)]
    if not undone[key] then undo_charge(key, turn, turn_grant, cost) end
    undone[key] = true
  end
  for i = first_row, #ARGV, FIELDS do
    local cost = tonumber(ARGV[i + 4])
    if ARGV[i + 1] ~= 'in_flight' then undo_once(ARGV[i + 2], cost) end
    -- It may be older than the kind that its limit has now.
    for index in string.gmatch(ARGV[i + 8], '%d+') do undo_once(index, cost) end
  end
end

-- Phase 1, read only. First what says no whatever the slot; then the earliest slot.
local slot, bound = now, nil
local full, full_retry = nil, 0
local quotas = {}
for q = 1, quotas_n do
  local name = ARGV[8 + 2 * q]
  local first = 3 + QUOTA_STRINGS * (q - 1)
  local ends = not polling and pause_read(strings[first + 1]) or nil
  if ends == 0 then return later(LOOK_AGAIN_US, 'quota:' .. name .. '.paused') end
  -- An operator's end is a time of the server's clock.
  if ends and ends > clock.wall then
    return later(math.min(ends - clock.wall, LOOK_AGAIN_US), 'quota:' .. name .. '.paused')
  end
  local quota = {
    name = name, cooldown = cooldown_read(not polling and strings[first + 2] or nil), places = strings[first + 3], others = strings[first + 5],
    fingerprint = ARGV[9 + 2 * q], learned = learned_read(strings[first + 4], ARGV[9 + 2 * q]),
    learned_key = KEYS[first + 4],
  }
  if quota.cooldown.ends > slot then slot, bound = quota.cooldown.ends, 'quota:' .. name .. '.cooldown' end
  quotas[q] = quota
end

local rated, flying, keep = {}, {}, {}
for i = first_row, #ARGV, FIELDS do
  local quota, kind = quotas[tonumber(ARGV[i])], ARGV[i + 1]
  local row = {
    quota = quota, kind = kind, key = KEYS[tonumber(ARGV[i + 2])], unit = ARGV[i + 3], cost = tonumber(ARGV[i + 4]),
    count = tonumber(ARGV[i + 5]), span = tonumber(ARGV[i + 6]), extra = ARGV[i + 7],
    bound = 'quota:' .. quota.name .. '.' .. ARGV[i + 3],
  }
  if kind == 'in_flight' then
    row.waiting = KEYS[tonumber(row.extra)]
    flying[#flying + 1] = row
    -- A call that weighs more than what is left of the places must still be possible, alone.
    local most = math.max(row.cost, places_now(quota.places, row.count, now))
    local retry = leases_retry(row.key, row.waiting, row.cost, most, holder, now)
    -- After a loss the holders of leases report again within one lease; until then nobody knows how many.
    if clock.lost > 0 and now < clock.lost + lease then retry = math.min(clock.lost + lease - now, LOOK_AGAIN_US) end
    row.full = retry ~= nil
    if retry and retry > full_retry then full, full_retry = row.bound, retry end
  else
    row.period = period_of(row)
    if kind == 'tokens' then row.burst, row.lag = tokens_shape(row.extra) end
    if kind ~= 'day' then limit_now(row, quota, tonumber(strings[3]) or 0) end
    if kind ~= 'tokens' then row.others = others_read(quota.others, row.unit, row.period) end
    if kind == 'window' then keep[row.key] = math.max(keep[row.key] or 0, row.span) end
    local gone = {}
    for index in string.gmatch(ARGV[i + 8], '%d+') do gone[#gone + 1] = KEYS[tonumber(index)] end
    -- Who only looks (a wait below nothing) changes no books, whatever its own configuration says.
    if max_wait >= 0 then take_over(kind, row, gone, now, clock.wall, LOST_US) end
    row.books = load_books(row)
    if kind == 'day' and not day_of(row.books, clock.wall) then return {2, text(clock.wall)} end
    rated[#rated + 1] = row
  end
end

-- The slot moves on until all agree. Every limit is free to fill a gap before later reservations, so who has room
-- at one slot need not have it at a later one, and all are asked again.
local rounds, agreed = 0, false
while not agreed and rounds < ROUNDS do
  agreed, rounds = true, rounds + 1
  for _, row in ipairs(rated) do
    -- Where it sent the others to it agrees.
    if row.at ~= slot then row.at = next_slot(row, slot) end
    if row.at > slot then slot, bound, agreed = row.at, row.bound, false end
  end
end
for _, row in ipairs(rated) do
  -- Beyond the days that the midnights describe: ask again when they describe more.
  if row.books and row.books.starts and not day_of(row.books, slot - clock.offset) then agreed, bound = false, row.bound end
end

-- Charge all rates at the slot and note it for the same request.
local function charge_rates(granted_at)
  local record = text(slot) .. ' ' .. grant .. ' ' .. granted_at
  for _, row in ipairs(rated) do
    row.keep = keep[row.key]
    local field = charge(row, slot)
    if field then record = record .. ' ' .. row.key .. '=' .. field end
  end
  -- Half a lease only, so that a repeated request never finds a grant whose lease is about to end.
  redis.call('SET', KEYS[2], record, 'PX', text(math.ceil((slot - now + lease / 2) / 1000)))
  clock_write(KEYS[1], clock)
end

-- Refused before anything is charged. Asking again when the slot is `max_wait` away is asking early enough.
local wait = slot - now
if full then
  for _, row in ipairs(flying) do
    if row.full then leases_wait(row.waiting, row.cost, holder, now) end
  end
end
if wait > max_wait and wait - max_wait >= full_retry then
  if not (wants_turn and agreed) then return later(wait - max_wait, bound) end
  charge_rates(TURN)
  return {0, text(wait - max_wait), bound, clock.epoch, grant, text(slot)}
end
if full then return later(full_retry, full) end
if not agreed then return later(LOOK_AGAIN_US, bound) end

-- Phase 2: charge every limit at that slot.
for _, row in ipairs(flying) do
  leases_charge(row.key, row.waiting, row.cost, grant, who, slot + lease, holder, now)
end
charge_rates(text(now))

-- What this grant shows of the quotas that learn: how much of the level is in use, by the limit that is fullest.
local changes, left = '', ''
for _, row in ipairs(rated) do
  local state = row.quota.learned
  if state and row.kind == 'window' then
    local used = redis.call('ZCOUNT', row.key, '(' .. text(slot - row.span), text(slot))
    row.used, row.busy = adapt_share(used, row.full), used + row.cost > row.count
    left = left .. string.format('%s %s:%.0f %.0f ', row.quota.name, row.unit, row.period, math.max(0, row.count - used))
  elseif state and row.kind == 'fixed' then
    local used = (row.books.used[text(fixed_number(row.books, slot - clock.offset))] or 0) + row.cost
    row.used, row.busy = adapt_share(used, row.full), used + row.cost > row.count
  elseif state and row.kind == 'slices' then
    local used, last = 0, math.floor(slot / row.books.width)
    for slice = last - math.floor(row.span / row.books.width), last do used = used + (row.books[slice] or 0) end
    row.used, row.busy = adapt_share(used + row.cost, row.full), used + 2 * row.cost > row.count
  elseif state and row.kind == 'tokens' then
    row.used = bound == row.bound and state.level or 0
  end
  -- Full is full, also where rounding leaves a part of the level that no call fits into.
  if row.busy then row.used = math.max(row.used, state.level) end
  if row.used and (not row.quota.fullest or row.used > row.quota.fullest.used) then row.quota.fullest = row end
end
for _, quota in ipairs(quotas) do
  local row, state = quota.fullest, quota.learned
  if row then
    local old = state.level
    if adapt_served(state, slot, row.used, adapt_share(1, row.full), row.period) then
      redis.call('SET', quota.learned_key, quota.fingerprint .. ' ' .. adapt_text(state), 'PX', ttl_ms(LEARNED_KEPT_US))
      if state.level ~= old then changes = changes .. string.format('%s %.0f %.0f ', quota.name, old, state.level) end
    end
  end
end
return {1, text(wait), grant, clock.epoch, text(now), text(slot), changes, left}
