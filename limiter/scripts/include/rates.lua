-- @include clock
-- @include log
-- @include slices
-- @include tokens
-- @include fixed
-- @include day
-- The same steps for every kind of rate. They compare the kind's name: a table of functions would be made and collected
-- by the server on every call.

-- Read the row's book once.
local function rate_load(row, clock)
  local kind = row.kind
  if kind == 'slices' then row.book = slices_load(row.key, row.span)
  elseif kind == 'tokens' then
    row.book = tokens_load(row.key, row.span, row.count, row.burst, row.lag, clock.now, clock.lost)
  elseif kind == 'fixed' then row.book = fixed_load(row.key, row.span, clock.wall)
  elseif kind == 'day' then row.book = day_load(row.key, row.extra) end
end

local function next_under(row, count, slot, clock)
  local kind, cost = row.kind, row.cost
  if kind == 'log' then
    local gap = cost * (slot < row.paced and math.max(row.gap, row.even) or row.gap)
    if gap == 0 then return log_next(row.key, cost, count, row.span, slot) end
    return log_next_apart(row.key, cost, count, row.span, slot, gap)
  end
  if kind == 'slices' then
    return slices_next(row.book, cost, count, row.span, slot, slot < row.paced and math.ceil(count / SLICES) or nil)
  end
  if kind == 'tokens' then return tokens_next(row.book, cost, slot) end
  if kind == 'fixed' then return fixed_next(row.book, cost, count, tonumber(row.extra), clock.offset, slot) end
  return day_next(row.book, cost, count, clock.offset, slot)
end

-- The row's earliest slot from `slot` on. Use by others counts like our own until it ends; a slot after that end may be
-- the earliest.
local function rate_next(row, slot, clock)
  slot = math.max(slot, row.opens)
  local others = row.others
  if not others or slot >= others.ends then return next_under(row, row.count, slot, clock) end
  if others.cost + row.cost <= row.count then
    local at = next_under(row, row.count - others.cost, slot, clock)
    if at < others.ends then return at end
  end
  return next_under(row, row.count, others.ends, clock)
end

-- Write the charge down; returns the field of a hash that was charged.
local function rate_charge(row, slot, grant, clock)
  local kind, key, cost, now = row.kind, row.key, row.cost, clock.now
  if kind == 'log' then return log_charge(key, cost, row.quota.keep[key], grant, slot, now) end
  if kind == 'slices' then return slices_charge(key, row.book, cost, row.span, slot, now, row.quota.logged[row.unit] or 0) end
  if kind == 'tokens' then return tokens_charge(key, row.book, cost, grant, slot, now) end
  if kind == 'fixed' then return fixed_charge(key, row.book, cost, clock.offset, slot, clock.wall) end
  return day_charge(key, row.book, cost, clock.offset, slot, clock.wall)
end

-- The units in the window that ends at a slot just charged; nil for kinds that do not keep them.
local function rate_used_at(row, slot, clock)
  if row.kind == 'log' then return redis.call('ZCOUNT', row.key, '(' .. text(slot - row.span), text(slot)) end
  if row.kind == 'fixed' then return (row.book.used[text(fixed_number(row.book, slot - clock.offset))] or 0) + row.cost end
  if row.kind ~= 'slices' then return nil end
  local used, last = row.cost, math.floor(slot / row.book.width)
  for slice = last - math.floor(row.span / row.book.width), last do used = used + (row.book[slice] or 0) end
  return used
end

-- The units that count now. Later slots count as used, since no grant now may take their units.
local function rate_used_now(row, clock)
  if row.kind == 'log' then return redis.call('ZCOUNT', row.key, '(' .. text(clock.now - row.span), '+inf') end
  if row.kind == 'slices' then
    local width = row.book.width
    return slices_since(row.book, math.floor(clock.now / width) - math.ceil(row.span / width))
  end
  if row.kind == 'fixed' then return row.book.used[text(fixed_number(row.book, clock.wall))] or 0 end
  local today = day_of(row.book, clock.wall)
  return today and row.book.used[row.book.starts[today]] or 0
end

-- Use before a loss of the state is unknown, so a window waits for as long as it could matter.
local function loss_until(row, clock)
  local strict = row.kind == 'log' or row.kind == 'slices'
  return strict and clock.lost > 0 and clock.lost + math.min(row.span, LOST_US) or 0
end
