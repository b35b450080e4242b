-- @include text
-- @include ttl
-- A token bucket with reservations: a sorted set of charges `GRANT:cost`, scored by slot, and at score 0 the
-- `base credit period time` that was there before the first of them. Without a base it was full.
--
-- Credit counts token x period: `count` of it comes back each µs and a token costs `period`, so all of it is whole
-- numbers and no rate, however odd (59/min), loses or gains a fraction.
--
-- Charges stay known for a while, so what is given back comes back exactly. (A single number for the whole future,
-- like the arrival time of GCRA, cannot: it would free the early place by selling the late one twice.)
local TOKENS_KEPT = 32

local function tokens_load(key, period, count, burst, now, lost)
  local flat = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  local read = {at = {}, cost = {}, level = {}, room = {}, n = 0, full = burst * period, period = period, count = count}
  local credit, time = read.full, nil
  for i = 1, #flat, 2 do
    local old_credit, old_period, old_time = string.match(flat[i], '^base (%S+) (%S+) (%S+)$')
    if old_credit then
      read.base, credit, time = flat[i], tonumber(old_credit), tonumber(old_time)
      -- The configuration was changed: the tokens stay, their size in credit is new.
      if tonumber(old_period) ~= period then credit = math.floor(credit * period / tonumber(old_period)) end
    else
      read.n = read.n + 1
      read.at[read.n] = tonumber(flat[i + 1])
      read.cost[read.n] = tonumber(string.match(flat[i], ':(%d+)$')) * period
    end
  end
  if not read.base and lost > 0 then credit, time = 0, lost end
  read.credit, read.time = math.min(credit, read.full), time or read.at[1] or now
  return read
end

-- What is left after each charge, and how much less there could have been without harm to any later one: what
-- would have overflowed anyway need not be there.
local function tokens_levels(read)
  local level, time = read.credit, read.time
  local spilt = {}
  for i = 1, read.n do
    local risen = level + (read.at[i] - time) * read.count
    spilt[i] = math.max(0, risen - read.full)
    level, time = math.min(risen, read.full) - read.cost[i], read.at[i]
    read.level[i] = level
  end
  local room = math.huge
  for i = read.n, 1, -1 do
    room = math.min(read.level[i], room + (spilt[i + 1] or 0))
    read.room[i] = room
  end
end

-- The earliest slot from `slot` on at which the tokens are there and no later charge will miss them.
local function tokens_next(read, cost, slot)
  if not read.room[read.n] then tokens_levels(read) end
  local price = cost * read.period
  for i = 0, read.n do
    local level, time = read.level[i] or read.credit, read.at[i] or read.time
    local from, ends = math.max(time, slot), read.at[i + 1]
    if not ends or from < ends then
      local at = math.max(from, time + math.ceil((price - level) / read.count))
      if not ends then return at end
      if at < ends then
        local there = math.min(read.full, level + (at - time) * read.count)
        local spills = math.max(0, there + (ends - at) * read.count - read.full)
        if math.max(0, price - spills) <= read.room[i + 1] then return at end
      end
    end
  end
end

-- Tokens that could be taken now: without harm to what is reserved.
local function tokens_now(read, now)
  tokens_levels(read)
  local level, time, least = read.credit, read.time, math.huge
  local spills, future = 0, nil
  for i = 1, read.n do
    if read.at[i] > now then future = i break end
    level, time = read.level[i], read.at[i]
  end
  local there = math.min(read.full, level + (now - time) * read.count)
  if future then
    spills = math.max(0, there + (read.at[future] - now) * read.count - read.full)
    least = read.room[future] + spills
  end
  return math.max(0, math.floor(math.min(there, least) / read.period))
end

local function tokens_charge(key, read, cost, grant, slot, now)
  local past = 0
  while past < read.n and read.at[past + 1] <= now do past = past + 1 end
  local folded = past - TOKENS_KEPT
  if folded > TOKENS_KEPT then
    if read.base then redis.call('ZREM', key, read.base) end
    redis.call('ZREMRANGEBYRANK', key, 0, folded - 1)
    redis.call('ZADD', key, 0, string.format('base %.0f %.0f %.0f', read.level[folded], read.period, read.at[folded]))
  elseif not read.base and (read.n == 0 or read.credit < read.full) then
    redis.call('ZADD', key, 0, string.format('base %.0f %.0f %.0f', read.credit, read.period, read.time))
  end
  redis.call('ZADD', key, text(slot), string.format('%s:%.0f', grant, cost))
  local last = math.max(slot, read.at[read.n] or 0)
  keep_for(key, last - now + math.ceil(read.full / read.count))
end
