-- @include numbers
-- A strict window that keeps each unit: a sorted set of `GRANT:k`, scored by past and future slots. All windows of a unit
-- share it. `@SLICE:k` is a unit from a slice, see changed.lua.
local LOG_PAGE = 128
-- The most windows that are searched for a gap; beyond them the call goes to the end, which is correct but later.
local LOG_SEARCHED = 1024
-- The most old entries that one call removes, so that no single caller pays for an expired burst.
local LOG_SWEPT = 256
-- The most rounds of a search that alternates between distance from neighbours and room in the window.
local LOG_ROUNDS = 64

-- The earliest slot from `slot` on at which `cost` more units keep every window of `span` at `count` or less.
--
-- With gap = count - cost, a window is too full for the call if it holds gap + 1 entries. Two entries that are gap places
-- apart and less than a span in time bar the slots between (later - span) and (earlier + span). Both ends grow along the
-- set, so one pass finds the first free slot, also in a gap before later reservations.
local function log_next(key, cost, count, span, slot)
  local gap = count - cost
  local total = redis.call('ZCARD', key)
  if total <= gap then return slot end
  local first = redis.call('ZCOUNT', key, '-inf', text(slot - span))
  local pairs_left = total - gap - first
  if pairs_left > LOG_SEARCHED then
    local newest = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
    local leaving = redis.call('ZREVRANGE', key, gap, gap, 'WITHSCORES')[2]
    return math.max(slot, tonumber(newest), tonumber(leaving) + span)
  end
  while pairs_left > 0 do
    local page = math.min(LOG_PAGE, pairs_left)
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
local function log_apart(key, gap, slot)
  local at = slot - gap
  while true do
    local near = redis.call('ZRANGEBYSCORE', key, '(' .. text(at), '(' .. text(slot + gap), 'WITHSCORES', 'LIMIT', 0, LOG_PAGE)
    if #near == 0 then return slot end
    for i = 2, #near, 2 do
      at = tonumber(near[i])
      if at >= slot + gap then return slot end
      slot = at + gap
    end
  end
end

-- Like log_next, with a distance of at least `gap` to every other call.
local function log_next_apart(key, cost, count, span, slot, gap)
  for _ = 1, LOG_ROUNDS do
    slot = log_next(key, cost, count, span, slot)
    local apart = log_apart(key, gap, slot)
    if apart == slot then return slot end
    slot = apart
  end
  -- After the last entry both conditions hold.
  local newest = tonumber(redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2])
  return log_next(key, cost, count, span, math.max(slot, newest + gap))
end

-- `keep` is the longest span of the unit's windows.
local function log_charge(key, cost, keep, grant, slot, now)
  local left = redis.call('ZCOUNT', key, '-inf', text(now - keep))
  if left > 0 then redis.call('ZREMRANGEBYRANK', key, 0, math.min(left, LOG_SWEPT) - 1) end
  local entries = {}
  for unit = 1, cost do
    entries[2 * unit - 1], entries[2 * unit] = text(slot), grant .. ':' .. unit
  end
  redis.call('ZADD', key, unpack(entries))
  keep_for(key, slot - now + keep)
end
