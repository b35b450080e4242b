-- The decision of acquire.lua, whose header describes KEYS, ARGV and the reply. Another script includes it in a function with
-- KEYS and ARGV as its parameters, so that a caller's own step and the decision are one.
-- @include clock
-- @include rows
-- @include charge
-- @include leases
-- @include undo

-- The most rounds in which limits look for a common slot; each round moves the slot on.
local ROUNDS = 64
local LEARNED_KEPT_US = 86400000000
-- In a request's record, a reservation and a refused late call have this word in place of the time of the grant.
local RESERVED = '-'

local max_wait, lease, grant = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local owner, holder, reserves = ARGV[5] .. ' ' .. ARGV[6], ARGV[6], ARGV[8] == '1'
local more, bell = ARGV[9] == '1', ARGV[10]
local ENDED = 11
local FIRST = ENDED + 1 + 6 * tonumber(ARGV[ENDED])

-- END: the leases of calls that have ended; `freed` has the units by the key of the leases.
local freed, lines = {}, {}
for i = ENDED + 1, FIRST - 1, 6 do
  local key, ended = KEYS[tonumber(ARGV[i + 1])], ARGV[i + 3]
  record_end(KEYS[tonumber(ARGV[i])], ended)
  freed[key] = (freed[key] or 0) + lease_end(key, ended, ARGV[i + 4], tonumber(ARGV[i + 5]))
  lines[key] = KEYS[tonumber(ARGV[i + 2])]
end

local strings = strings_read(FIRST)
local clock = clock_read(strings[1], ARGV[1], ARGV[7], grant)
local now = clock.now
local quotas, rows = rows_read(FIRST, strings)

local function denied(retry, bound, ...)
  if clock.urgent then clock_write(KEYS[1], clock) end
  return {0, text(math.max(1, retry)), clock.stored and clock.epoch or '', bound, ...}
end

-- FIND: the earliest slot under all rates, and room for the leases.

-- Give up the request's reservation, even if the caller wants no reservation now.
local function leave_reservation(record, reserved)
  redis.call('DEL', KEYS[2])
  local undone = {}
  for _, row in ipairs(rows) do
    -- The reservation may be in a book of the limit's former kind.
    for _, key in ipairs(row.kind ~= 'in_flight' and {row.key, unpack(row.former)} or {}) do
      if not undone[key] then undo_charge(key, record, reserved, row.cost) end
      undone[key] = true
    end
  end
end

-- The time until the next try of a paused quota (µs), and the bound to report; nil if none is paused.
local function paused()
  for _, quota in ipairs(quotas) do
    -- An operator's end is a time of the server's clock.
    local ends = pause_read(quota.pause)
    if ends == 0 then return LOOK_AGAIN_US, bound_of(quota, 'paused') end
    if ends and ends > clock.wall then return math.min(ends - clock.wall, LOOK_AGAIN_US), bound_of(quota, 'paused') end
  end
end

-- The time until there may be room for all leases (µs), and the bound to report; 0 if there is room.
local function no_place()
  local retry, bound = 0, nil
  for _, row in ipairs(rows) do
    if row.kind == 'in_flight' then
      -- A call that weighs more than the allowed places must still be possible, alone.
      row.places = places_now(row.quota.places, row.count, now)
      row.most = math.max(row.cost, row.places)
      row.retry = leases_retry(row.key, row.line, row.cost, row.most, holder, now)
      -- After a loss of the state, holders renew within one lease; until then the number of leases is unknown.
      if clock.lost > 0 and now < clock.lost + lease then
        row.retry, row.places = math.min(clock.lost + lease - now, LOOK_AGAIN_US), 0
      end
      if row.retry and row.retry > retry then retry, bound = row.retry, row.bound end
    end
  end
  return retry, bound
end

-- Leave the lines, so that the bell calls the next holders.
local function leave_lines()
  for _, row in ipairs(rows) do
    if row.kind == 'in_flight' then
      redis.call('HDEL', row.line, holder)
      row.places = places_now(row.quota.places, row.count, now)
    end
  end
end

-- The slot on which all rates agree, the bound that moved it last, and whether they agree. Limits fill gaps before later
-- slots, so a limit with room at one slot may have none at a later one: each round tries all limits again.
local function agree(rates)
  local slot, bound = now, ''
  for _, quota in ipairs(quotas) do
    if quota.cooldown.ends > slot then slot, bound = quota.cooldown.ends, bound_of(quota, 'cooldown') end
  end
  local agreed = false
  for _ = 1, ROUNDS do
    agreed = true
    for _, row in ipairs(rates) do
      -- A limit agrees with the slot to which it moved the others.
      if row.at ~= slot then row.at = rate_next(row, slot, clock) end
      if row.at > slot then slot, bound, agreed = row.at, row.bound, false end
    end
    if agreed then break end
  end
  for _, row in ipairs(rates) do
    -- The slot is beyond the described days: deny, until later requests describe later days.
    if row.kind == 'day' and not day_of(row.book, slot - clock.offset) then agreed, bound = false, row.bound end
  end
  return slot, bound, agreed
end

-- CHARGE: all rates at the slot, and note it in the request's record.
local function charge(rates, slot, granted_at)
  local record = text(slot) .. ' ' .. grant .. ' ' .. granted_at .. charge_rates(rates, slot, grant, clock)
  -- Half a lease only, so that a repeated request never finds a grant whose lease is about to end.
  redis.call('SET', KEYS[2], record, 'PX', text(math.ceil((slot - now + lease / 2) / 1000)))
  clock_write(KEYS[1], clock)
end

-- LEARN: the share of its level that each quota uses with this grant, by its fullest limit.
local function fullest_rates(rates, slot, bound)
  local fullest, left = {}, ''
  for _, row in ipairs(rates) do
    local quota, units = row.quota, row.quota.learned and rate_used_at(row, slot, clock)
    if units then
      row.used = adapt_share(units, row.full)
      -- A limit without room for one more call counts as full, even if rounding leaves a part of the level.
      if units + row.cost > row.count then row.used = math.max(row.used, quota.learned.level) end
      if row.kind == 'log' then
        left = left .. string.format('%s %s %.0f ', quota.name, row.id, math.max(0, row.count - units))
      end
    elseif quota.learned and row.kind == 'tokens' then
      row.used = bound == row.bound and quota.learned.level or 0
    end
    if row.used and (not fullest[quota] or row.used > fullest[quota].used) then fullest[quota] = row end
  end
  return fullest, left
end

local function learn(rates, slot, bound)
  local changes, fullest, left = '', fullest_rates(rates, slot, bound)
  for _, quota in ipairs(quotas) do
    local row, state = fullest[quota], quota.learned
    local old = state and state.level
    if row and adapt_served(state, slot, row.used, adapt_share(1, row.full), row.period) then
      redis.call('SET', quota.learned_key, quota.fingerprint .. ' ' .. adapt_text(state), 'PX', ttl_ms(LEARNED_KEPT_US))
      if state.level ~= old then changes = changes .. string.format('%s %.0f %.0f ', quota.name, old, state.level) end
    end
  end
  return changes, left
end

-- CHARGE: the places. Returns the bound of a limit that has none for the holder's next call, or ''.
local function charge_places(slot)
  local full = ''
  for _, row in ipairs(rows) do
    if row.kind == 'in_flight' then
      leases_charge(row.key, row.cost, grant, owner, slot + lease, now)
      -- A holder that sleeps for long until its slot could not come when it is called.
      if more and slot - now < COMES_US and leases_in_use(row.key, now) >= row.most then
        line_join(row.line, row.cost, holder, now)
        full = row.bound
      end
    end
  end
  return full
end

local function decide()
  -- The request is repeated because its first reply was lost: return the grant that it already has.
  local record = strings[2]
  if record then
    local slot, granted, at = string.match(record, '^(%S+) (%S+) (%S+)')
    if at ~= RESERVED then
      leave_lines()
      return {1, text(tonumber(slot) - now), clock.epoch, at, slot, granted, '', '', ''}
    end
    leave_reservation(record, granted)
  end

  local paused_us, paused_bound = paused()
  if paused_us then
    leave_lines()
    return denied(paused_us, paused_bound)
  end

  local full_us, full_bound = no_place()
  local rates = {}
  for _, row in ipairs(rows) do
    if row.kind ~= 'in_flight' then
      rate_load(row, clock)
      if row.kind == 'day' and not day_of(row.book, clock.wall) then return {2, text(clock.wall)} end
      -- A caller that only looks (max wait below 0) changes no books, even if its configuration differs.
      if max_wait >= 0 then note_change(row, clock) end
      rates[#rates + 1] = row
    end
  end
  for _, row in ipairs(rows) do row.opens = math.max(changed_until(row, clock), loss_until(row, clock)) end
  local slot, bound, agreed = agree(rates)

  -- The next try is worth it once the slot is `max_wait` away.
  local too_far = slot - now - max_wait
  local waits_for_rate = too_far > 0 and too_far >= full_us
  -- A holder that waits for something else does not stand in line, or places would be kept for it.
  for _, row in ipairs(rows) do
    if row.retry and not waits_for_rate then
      line_join(row.line, row.cost, holder, now)
    elseif row.kind == 'in_flight' then
      redis.call('HDEL', row.line, holder)
    end
  end
  if waits_for_rate then
    if not (reserves and agreed) then return denied(too_far, bound) end
    charge(rates, slot, RESERVED)
    return denied(too_far, bound, grant, text(slot))
  end
  if full_us > 0 then return denied(full_us, full_bound) end
  if not agreed then return denied(LOOK_AGAIN_US, bound) end

  local full = charge_places(slot)
  charge(rates, slot, text(now))
  for _, quota in ipairs(quotas) do cooldown_go_alone(quota.cooldown_key, quota.cooldown, slot, grant, now) end
  local changes, left = learn(rates, slot, bound)
  return {1, text(slot - now), clock.epoch, text(now), text(slot), grant, changes, left, full}
end

local function acquire()
  local reply, names = decide(), {}
  for _, row in ipairs(rows) do
    if row.places then
      line_call(row.key, row.line, row.places - leases_in_use(row.key, now), false, now, holder, names)
      freed[row.key] = 0
    end
  end
  for key, line in pairs(lines) do line_call(key, line, freed[key], true, now, holder, names) end
  line_ring(bell, names)
  return reply
end
