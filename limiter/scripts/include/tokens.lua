-- @include numbers
-- A token bucket with reservations: a sorted set of charges `GRANT:cost`, scored by slot. At score 0 is the bucket before
-- the first charge, `base credit period time`; without a base it was full.
--
-- Credit counts token x period, so that all numbers are whole: a token costs `period`, and `count` comes back each µs.
-- A full bucket refills a lag later, and a nearly full one later by the lag less the missing part. So calls that arrive
-- late by up to the lag never exceed the provider's bucket. Charges are kept for a while, so that one that is given back
-- comes back exactly. docs/limiter.md has the reasons.
local TOKENS_KEPT = 32

local function tokens_load(key, period, count, burst, lag, now, lost)
  local flat = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  local read = {
    at = {}, cost = {}, level = {}, since = {}, n = 0,
    full = burst * period, period = period, count = count, lag = lag * count,
  }
  local credit, time = read.full, nil
  local old_credit, old_period, old_time = string.match(flat[1] or '', '^base (%S+) (%S+) (%S+)$')
  if old_credit then
    read.base, credit, time = flat[1], tonumber(old_credit), tonumber(old_time)
    -- The configuration was changed: the tokens stay, and their credit is converted.
    if tonumber(old_period) ~= period then credit = math.floor(credit * period / tonumber(old_period)) end
  end
  for i = old_credit and 3 or 1, #flat, 2 do
    read.n = read.n + 1
    read.at[read.n] = tonumber(flat[i + 1])
    read.cost[read.n] = tonumber(string.match(flat[i], ':(%d+)$')) * period
  end
  if not read.base and lost > 0 then credit, time = 0, lost end
  read.credit, read.time = math.min(credit, read.full), time or read.at[1] or now
  return read
end

-- The bucket after a charge of `price` at `at`: the credit left, and the time from which it refills.
local function tokens_after(read, level, since, at, price)
  local there = math.min(read.full, level + math.max(0, at - since) * read.count)
  local lag = math.max(0, there - (read.full - read.lag))
  return there - price, math.max(since, at + math.ceil(lag / read.count))
end

local function tokens_levels(read)
  local level, since = read.credit, read.time
  for i = 1, read.n do
    level, since = tokens_after(read, level, since, read.at[i], read.cost[i])
    read.level[i], read.since[i] = level, since
  end
  read.level[0], read.since[0] = read.credit, read.time
end

-- Whether a charge at `at`, after the first `i` charges, leaves every later charge its tokens.
local function tokens_fit(read, i, at, price)
  local level, since = tokens_after(read, read.level[i], read.since[i], at, price)
  if level < 0 then return false end
  for later = i + 1, read.n do
    level, since = tokens_after(read, level, since, read.at[later], read.cost[later])
    if level < 0 then return false end
    -- The bucket has overflowed before this charge, so the new charge changes nothing from here on.
    if level >= read.level[later] and since <= read.since[later] then return true end
  end
  return true
end

-- The earliest slot from `slot` on at which the tokens are there and no later charge will miss them.
local function tokens_next(read, cost, slot)
  if not read.level[0] then tokens_levels(read) end
  local price = cost * read.period
  for i = 0, read.n do
    local missing, since = price - read.level[i], read.since[i]
    local at, ends = math.max(read.at[i] or read.time, slot), read.at[i + 1]
    if missing > 0 then at = math.max(at, since + math.ceil(missing / read.count)) end
    if not ends or at < ends and tokens_fit(read, i, at, price) then return at end
  end
end

-- Whether the tokens are there at `at`, whatever charges after `soon` need. The levels must be known, see tokens_next.
local function tokens_there(read, cost, at, soon)
  local i = 0
  while i < read.n and read.at[i + 1] <= at do i = i + 1 end
  local level, since = tokens_after(read, read.level[i], read.since[i], at, cost * read.period)
  while level >= 0 and i < read.n and read.at[i + 1] <= soon do
    i = i + 1
    level, since = tokens_after(read, level, since, read.at[i], read.cost[i])
  end
  return level >= 0
end

-- The tokens that could be taken now without taking those of a reservation.
local function tokens_now(read, now)
  tokens_levels(read)
  local i = 0
  while i < read.n and read.at[i + 1] <= now do i = i + 1 end
  local least, most = 0, math.floor(read.full / read.period)
  while least < most do
    local middle = math.ceil((least + most) / 2)
    if tokens_fit(read, i, now, middle * read.period) then least = middle else most = middle - 1 end
  end
  return least
end

local function tokens_charge(key, read, cost, grant, slot, now)
  local past = 0
  while past < read.n and read.at[past + 1] <= now do past = past + 1 end
  local folded = past - TOKENS_KEPT
  if folded > TOKENS_KEPT then
    if read.base then redis.call('ZREM', key, read.base) end
    redis.call('ZREMRANGEBYRANK', key, 0, folded - 1)
    redis.call('ZADD', key, 0, string.format('base %.0f %.0f %.0f', read.level[folded], read.period, read.since[folded]))
  elseif not read.base and (read.n == 0 or read.credit < read.full) then
    redis.call('ZADD', key, 0, string.format('base %.0f %.0f %.0f', read.credit, read.period, read.time))
  end
  redis.call('ZADD', key, text(slot), string.format('%s:%.0f', grant, cost))
  local last = math.max(slot, read.at[read.n] or 0)
  keep_for(key, last - now + math.ceil(read.full / read.count))
end
