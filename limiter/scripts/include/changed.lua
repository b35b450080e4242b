-- @include quota
-- @include slices
-- @include undo
-- Keeps limits true when a configuration changes in use.
--
-- A strict window has a log or slices, by its count. If a changed count needs the other book, that is made from the
-- present one, and the present one stays: slices count the units of a log beside them, and `logged` in them is the span
-- (µs) for which the log knows their units. After any other change of kind, and of the period of slices or of a window by the clock, the unit grants
-- nothing until earlier use no longer counts: for one period, or until midnight for a day. `others` notes the newest
-- earlier use as `UNIT:was`, and the former book is deleted.
local CHANGE_KEPT_US = 86400000000
local LONGEST_DAY_US = 90000000000
-- The largest count of a log, `EXACT_MOST` of limits.py: with so many units between, an older one does not matter.
local LOG_MOST = 2000

-- The newest slot in a book (µs), or a time soon after it.
local function newest_slot(key, clock)
  local kind = string.match(key, ':(%l+):%l+$')
  if kind == 'log' or kind == 'tokens' then
    local newest = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
    -- A bucket whose kept charges were all given back knows the older ones by the time in its base.
    return tonumber(string.match(newest[1] or '', '^base %S+ %S+ (%S+)$') or newest[2]) or 0
  end
  local newest, width = 0, tonumber(redis.call('HGET', key, 'width') or 0)
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    local number = tonumber(flat[i])
    if number and kind == 'day' then
      -- Use in a day that has begun is no later than now.
      local ends = number + LONGEST_DAY_US
      newest = math.max(newest, number > clock.wall and ends or math.min(ends, clock.wall))
    elseif number then
      newest = math.max(newest, (number + 1) * width)
    end
  end
  return kind == 'slices' and newest or newest + clock.offset
end

-- Each unit of the log counts in the slice of its slot. The log stays: it knows whose the units are, for undo.lua.
local function slices_from_log(row, log, clock)
  -- Twice the span, since the log may have had a wider guard.
  local width, at = row.book.width, clock.now - 2 * row.span
  while true do
    local first = redis.call('ZRANGEBYSCORE', log, '(' .. text(at), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    if not first then break end
    local slice = math.floor(tonumber(first) / width)
    at = (slice + 1) * width - 1
    redis.call('HSET', row.key, 'width', text(width), text(slice), redis.call('ZCOUNT', log, first, text(at)))
    redis.call('HSET', row.key, 'logged', text(row.quota.logged[row.unit] or 0))
  end
  keep_for(row.key, math.max(0, at - clock.now) + row.span + width)
  row.book = slices_load(row.key, row.span)
end

-- Units that the log lacks are put at the ends of their slices, as `@SLICE:k`. Until the last of these ends a new slot
-- could be before units that count with it, so the log waits for it: `others` notes it as `UNIT:log`.
local function log_from_slices(row, key, clock)
  local flat, numbers, used = redis.call('HGETALL', key), {}, {}
  for i = 1, #flat, 2 do
    local number = tonumber(flat[i])
    used[number or flat[i]] = tonumber(flat[i + 1])
    numbers[#numbers + 1] = number
  end
  table.sort(numbers)
  -- Separately for the slots ahead and the earlier ones: without a wait, a new slot may be before those ahead.
  local left, opens, quota = {[true] = LOG_MOST, [false] = LOG_MOST}, clock.now, row.quota
  for i = #numbers, 1, -1 do
    local number = numbers[i]
    local ends = (number + 1) * used.width - 1
    if ends <= clock.now - quota.keep[row.key] then break end
    local ahead = ends > clock.now
    local units = math.min(used[number], left[ahead])
    left[ahead] = left[ahead] - units
    local missing, k = units - redis.call('ZCOUNT', row.key, text(number * used.width), text(ends)), used[number]
    if missing > 0 then opens = math.max(opens, ends) end
    if ahead and units < used[number] then opens = math.max(opens, (numbers[#numbers] + 1) * used.width - 1) end
    while missing > 0 do
      local entries = {}
      for _ = 1, missing do
        entries[#entries + 1], entries[#entries + 2] = text(ends), string.format('@%.0f:%d', number, k)
        k = k - 1
      end
      missing = missing - redis.call('ZADD', row.key, 'NX', unpack(entries))
    end
  end
  keep_for(row.key, opens - clock.now + quota.keep[row.key])
  if opens > clock.now then
    quota.others = others_write(quota.others_key, quota.others, row.unit .. ':log', opens, 0, opens, clock.now)
  end
end

-- The time (µs) from which a use at `last` no longer counts under the row's limit.
local function counts_until(row, last, clock)
  if row.kind == 'tokens' then return last + math.ceil(row.burst * row.span / row.count) + row.lag end
  if row.kind ~= 'day' then return last + row.span end
  for start in string.gmatch(row.extra, '%d+') do
    if tonumber(start) + clock.offset > last then return tonumber(start) + clock.offset end
  end
  return last + LONGEST_DAY_US
end

-- Whether a former configuration of a log has left slices.
local function has_slices(row, slices)
  for _, key in ipairs(row.former) do
    if key == slices then return redis.call('EXISTS', slices) == 1 end
  end
  return false
end

-- A log beside slices of a former configuration, which may come back.
local function log_beside_slices(row, key, clock)
  local mine, found = row.quota.logged[row.unit], redis.call('HMGET', key, 'width', 'logged')
  local logged = tonumber(found[2] or 0)
  if logged < mine then log_from_slices(row, key, clock) end
  if logged ~= mine then redis.call('HSET', key, 'logged', text(mine)) end
  row.quota.slices[row.key] = tonumber(found[1])
end

-- Charge the slices beside a log, once for all windows of it. Their TTL stays: it ends when their own units do.
local function charge_slices_beside(row, slot)
  local width = row.quota.slices[row.key]
  if not width then return end
  redis.call('HINCRBY', other_window(row.key), text(math.floor(slot / width)), row.cost)
  row.quota.slices[row.key] = nil
end

-- Note the change if the row's kind or period is new; else write nothing. The row's book must be loaded.
local function note_change(row, clock)
  local former, quota = row.former, row.quota
  if row.book and row.book.stale then
    former = {row.key}
  elseif row.kind == 'slices' and row.book.fields == 0 and redis.call('EXISTS', other_window(row.key)) == 1 then
    return slices_from_log(row, other_window(row.key), clock)
  elseif #former == 0 or redis.call('EXISTS', unpack(former)) == 0 then
    return
  elseif row.kind == 'log' and has_slices(row, other_window(row.key)) then
    return log_beside_slices(row, other_window(row.key), clock)
  elseif redis.call('EXISTS', row.key) == 1 then
    return
  end
  local was = others_read(quota.others, row.unit .. ':was')
  local last = was and was.sent or 0
  for _, key in ipairs(former) do last = math.max(last, newest_slot(key, clock)) end
  -- Keep the note longer than this limit needs it: the kind may change again, to one with a longer period.
  local ends = math.max(counts_until(row, last, clock), last + CHANGE_KEPT_US, clock.now)
  quota.others = others_write(quota.others_key, quota.others, row.unit .. ':was', last, 0, ends, clock.now)
  redis.call('DEL', unpack(former))
end

-- The time from which the row may grant after a change; 0 without a change.
local function changed_until(row, clock)
  local others = row.quota.others
  if not others then return 0 end
  local was = others_read(others, row.unit .. ':was')
  local log = row.kind == 'log' and others_read(others, row.unit .. ':log')
  return math.max(was and counts_until(row, was.sent, clock) or 0, log and log.sent or 0)
end
