-- @include quota
-- Handles a limit whose kind was changed in use, or whose period was (slices and windows by the clock). The new limit's
-- book is empty and cannot be filled from the former one. So the unit grants nothing until earlier use can no longer
-- count: for one period of the new limit, or until midnight for a calendar day. `others` notes the last earlier use as
-- `UNIT:was`, and the former book is deleted.
local CHANGE_KEPT_US = 86400000000
local LONGEST_DAY_US = 90000000000

-- The newest slot in a book (µs), or a time soon after it.
local function newest_slot(key, clock)
  local kind = string.match(key, ':(%l+):%l+$')
  if kind == 'log' or kind == 'tokens' then
    return tonumber(redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]) or 0
  end
  local newest, width = 0, tonumber(redis.call('HGET', key, 'width') or 0)
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    local number = tonumber(flat[i])
    if number and kind == 'day' then
      -- Use in a day that has begun counts as no later than now.
      newest = math.max(newest, number > clock.wall and number + LONGEST_DAY_US or 0)
    elseif number then
      newest = math.max(newest, (number + 1) * width)
    end
  end
  return kind == 'slices' and newest or newest + clock.offset
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

-- Note the change if the row's kind or period is new; else write nothing. The row's book must be loaded.
local function note_change(row, clock)
  local former, quota = row.former, row.quota
  if row.book and row.book.stale then
    former = {row.key}
  elseif #former == 0 or redis.call('EXISTS', row.key) == 1 or redis.call('EXISTS', unpack(former)) == 0 then
    return
  end
  local last = clock.now
  for _, key in ipairs(former) do last = math.max(last, newest_slot(key, clock)) end
  -- Keep the note longer than this limit needs it: the kind may change again, to one with a longer period.
  local ends = math.max(counts_until(row, last, clock), last + CHANGE_KEPT_US)
  quota.others = others_write(quota.others_key, quota.others, row.unit .. ':was', last, 0, ends, clock.now)
  redis.call('DEL', unpack(former))
end

-- The time from which the row may grant after a change; 0 without a change.
local function changed_until(row, clock)
  local was = others_read(row.quota.others, row.unit .. ':was')
  return was and counts_until(row, was.sent, clock) or 0
end
