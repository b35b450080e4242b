-- Grant one call under all limits of all its quotas at one common slot, or charge nothing.
--
-- KEYS   1 clock   2 the request's own record   3..S cooldown and pause of each quota
--        S+1.. the books: logs, slices, tokens, days, leases, waiting
-- ARGV   1 test clock (µs or '')   2 max wait (µs)   3 lease (µs)   4 grant id   5 request id   6 holder
--        7 the epoch that the caller knows or ''   8 S
--        9.. rows of eight: kind, key index, bound, cost, count, span (µs), extra, indices of the keys of kinds that
--            the unit does not have now but may have had
--            cooldown, pause   the first three
--            window            span: period and guard   extra: the longest span of the unit
--            slices            span: period and guard
--            tokens            span: period   extra: burst
--            day               extra: midnights
--            in_flight         extra: key index of who waits
-- Returns {1, wait (µs), grant id, epoch} granted; {0, retry (µs), bound, epoch} refused and nothing charged;
--         {2, server's time (µs)} if it is in none of the days that the midnights describe.
--
-- What a refusal may write: who waits for a place in flight, a backward step of the clock, that state was lost, and
-- what a limit takes over from a former kind.
-- Why atomic: a limit that is charged while another one refuses is quota lost, and a slot that is found in one
-- step and written in another is sold twice.
-- @include clock
-- @include window
-- @include slices
-- @include tokens
-- @include day
-- @include leases
-- @include takeover

local FIELDS = 8
-- Limits that keep disagreeing about the slot are asked so often; each question moves it on.
local ROUNDS = 64

local strings = redis.call('MGET', unpack(KEYS, 1, tonumber(ARGV[8])))
local clock = clock_read(strings[1], ARGV[1], ARGV[7], ARGV[4])
local now = clock.now
local max_wait, lease = tonumber(ARGV[2]), tonumber(ARGV[3])
local grant, who, holder = ARGV[4], ARGV[5] .. ' ' .. ARGV[6], ARGV[6]

-- The same request again means that the first reply was lost: the answer is the grant it already has.
if strings[2] then
  local slot, granted = string.match(strings[2], '^(%S+) (%S+)')
  return {1, text(math.max(0, tonumber(slot) - now)), granted, clock.epoch}
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

-- Each kind that has a rate: `load` reads its books once, `next` finds its earliest slot from one on, `charge` writes
-- and returns the field of a hash that it charged.
local kinds = {
  window = {
    load = function() end,
    next = function(row, slot)
      return window_next(row.key, row.cost, row.count, row.span, math.max(slot, after_loss(row.span)))
    end,
    charge = function(row, slot) window_charge(row.key, row.cost, tonumber(row.extra), grant, slot, now) end,
  },
  slices = {
    load = function(row) return slices_load(row.key, row.span) end,
    next = function(row, slot)
      return slices_next(row.books, row.cost, row.count, row.span, math.max(slot, after_loss(row.span)))
    end,
    charge = function(row, slot) return slices_charge(row.key, row.books, row.cost, row.span, slot, now) end,
  },
  tokens = {
    load = function(row) return tokens_load(row.key, row.span, row.count, tonumber(row.extra), now, clock.lost) end,
    next = function(row, slot) return tokens_next(row.books, row.cost, slot) end,
    charge = function(row, slot) tokens_charge(row.key, row.books, row.cost, grant, slot, now) end,
  },
  day = {
    load = function(row) return day_load(row.key, row.extra) end,
    next = function(row, slot) return day_next(row.books, row.cost, row.count, clock.offset, slot) end,
    charge = function(row, slot) return day_charge(row.key, row.books, row.cost, clock.offset, slot, clock.wall) end,
  },
}

-- Phase 1, read only. First what says no whatever the slot; then the earliest slot.
local slot, bound = now, nil
local full, full_retry = nil, 0
local rated, flying = {}, {}
for i = 9, #ARGV, FIELDS do
  local kind, key, name = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  if kind == 'pause' then
    local ends = strings[key] and tonumber(string.match(strings[key], '^%S+'))
    if ends == 0 then return later(LOOK_AGAIN_US, name) end
    -- An operator's end is a time of the server's clock.
    if ends and ends > clock.wall then return later(math.min(ends - clock.wall, LOOK_AGAIN_US), name) end
  elseif kind == 'cooldown' then
    local ends = strings[key] and tonumber(string.match(strings[key], '^%S+'))
    if ends and ends > slot then slot, bound = ends, name end
  else
    local row = {
      kind = kinds[kind], key = KEYS[key], bound = name, cost = tonumber(ARGV[i + 3]), count = tonumber(ARGV[i + 4]),
      span = tonumber(ARGV[i + 5]), extra = ARGV[i + 6],
    }
    if kind == 'in_flight' then
      row.waiting = KEYS[tonumber(row.extra)]
      flying[#flying + 1] = row
      local retry = leases_retry(row.key, row.waiting, row.cost, row.count, holder, now)
      -- After a loss the holders of leases report again within one lease; until then nobody knows how many.
      if clock.lost > 0 and now < clock.lost + lease then retry = math.min(clock.lost + lease - now, LOOK_AGAIN_US) end
      row.full = retry ~= nil
      if retry and retry > full_retry then full, full_retry = name, retry end
    else
      local gone = {}
      for index in string.gmatch(ARGV[i + 7], '%d+') do gone[#gone + 1] = KEYS[tonumber(index)] end
      take_over(kind, row, gone, now, clock.wall, LOST_US)
      row.books = row.kind.load(row)
      if kind == 'day' and not day_of(row.books, clock.wall) then return {2, text(clock.wall)} end
      rated[#rated + 1] = row
    end
  end
end

-- The slot moves on until all agree. Every limit is free to fill a gap before later reservations, so who has room
-- at one slot need not have it at a later one, and all are asked again.
local rounds, agreed = 0, false
while not agreed and rounds < ROUNDS do
  agreed, rounds = true, rounds + 1
  for _, row in ipairs(rated) do
    local at = row.kind.next(row, slot)
    if at > slot then slot, bound, agreed = at, row.bound, false end
  end
  if #rated == 1 then agreed = true end
end
for _, row in ipairs(rated) do
  -- Beyond the days that the midnights describe: ask again when they describe more.
  if row.books and row.books.starts and not day_of(row.books, slot - clock.offset) then agreed, bound = false, row.bound end
end

-- Refused before anything is charged. Asking again when the slot is `max_wait` away is asking early enough.
local wait = slot - now
if full then
  for _, row in ipairs(flying) do
    if row.full then leases_wait(row.waiting, row.cost, holder, now) end
  end
end
if wait > max_wait and wait - max_wait >= full_retry then return later(wait - max_wait, bound) end
if full then return later(full_retry, full) end
if not agreed then return later(LOOK_AGAIN_US, bound) end

-- Phase 2: charge every limit at that slot.
local record = text(slot) .. ' ' .. grant
for _, row in ipairs(rated) do
  local field = row.kind.charge(row, slot)
  if field then record = record .. ' ' .. row.key .. '=' .. field end
end
for _, row in ipairs(flying) do
  leases_charge(row.key, row.waiting, row.cost, grant, who, slot + lease, holder, now)
end
-- Half a lease only, so that a repeated request never finds a grant whose lease is about to end.
redis.call('SET', KEYS[2], record, 'PX', text(math.ceil((wait + lease / 2) / 1000)))
clock_write(KEYS[1], clock)
return {1, text(wait), grant, clock.epoch}
