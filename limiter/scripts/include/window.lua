-- @include text
-- @include ttl
-- A strict window that remembers each unit: a sorted set of `GRANT:k`, scored by slot, of past and future. All
-- windows of a unit share it, since a use is a use.
local WINDOW_PAGE = 128
-- More windows than this are not searched for a gap: the call goes to the end, which is right, only later.
local WINDOW_SEARCHED = 1024
-- So many old entries at most leave in one call, so that a burst that expires does not make one caller pay.
local WINDOW_SWEPT = 256
-- A distance from all neighbours and room in the window are looked for in turn, so often at most.
local WINDOW_TURNS = 64

-- The earliest slot from `slot` on at which `cost` more units keep every window of `span` at `count` or less.
--
-- With gap = count - cost, a window is too full for the call if it holds gap + 1 entries. So each pair of entries
-- that are gap places apart and less than a span in time bars the slots that share a window with both: from
-- (later - span) to (earlier + span), ends excluded. Both ends grow along the set, so one pass forward finds the
-- first slot that nothing bars, and gaps before reservations further on are filled.
local function window_next(key, cost, count, span, slot)
  local gap = count - cost
  local total = redis.call('ZCARD', key)
  if total <= gap then return slot end
  local first = redis.call('ZCOUNT', key, '-inf', text(slot - span))
  local pairs_left = total - gap - first
  if pairs_left > WINDOW_SEARCHED then
    local newest = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
    local leaving = redis.call('ZREVRANGE', key, gap, gap, 'WITHSCORES')[2]
    return math.max(slot, tonumber(newest), tonumber(leaving) + span)
  end
  while pairs_left > 0 do
    local page = math.min(WINDOW_PAGE, pairs_left)
    local earlier = redis.call('ZRANGE', key, first, first + page - 1, 'WITHSCORES')
    local later = redis.call('ZRANGE', key, first + gap, first + gap + page - 1, 'WITHSCORES')
    for i = 2, 2 * page, 2 do
      local from, to = tonumber(earlier[i]), tonumber(later[i])
      if slot <= to - span then return slot end
      if to - from < span and from + span > slot then slot = from + span end
    end
    first, pairs_left = first + page, pairs_left - page
  end
  return slot
end

-- The earliest slot from `slot` on that is at least `gap` away from every entry.
local function window_apart(key, gap, slot)
  local at = slot - gap
  while true do
    local near = redis.call('ZRANGEBYSCORE', key, '(' .. text(at), '(' .. text(slot + gap), 'WITHSCORES', 'LIMIT', 0, WINDOW_PAGE)
    if #near == 0 then return slot end
    for i = 2, #near, 2 do
      at = tonumber(near[i])
      if at >= slot + gap then return slot end
      slot = at + gap
    end
  end
end

-- The same as window_next, with at least `gap` to every other call.
local function window_next_apart(key, cost, count, span, slot, gap)
  for _ = 1, WINDOW_TURNS do
    slot = window_next(key, cost, count, span, slot)
    local apart = window_apart(key, gap, slot)
    if apart == slot then return slot end
    slot = apart
  end
  -- At the end of all that is there, both hold.
  local newest = tonumber(redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2])
  return window_next(key, cost, count, span, math.max(slot, newest + gap))
end

-- `keep` is the longest span of the unit's windows.
local function window_charge(key, cost, keep, grant, slot, now)
  local left = redis.call('ZCOUNT', key, '-inf', text(now - keep))
  if left > 0 then redis.call('ZREMRANGEBYRANK', key, 0, math.min(left, WINDOW_SWEPT) - 1) end
  local entries = {}
  for unit = 1, cost do
    entries[2 * unit - 1], entries[2 * unit] = text(slot), grant .. ':' .. unit
  end
  redis.call('ZADD', key, unpack(entries))
  keep_for(key, slot - now + keep)
end
