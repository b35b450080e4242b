-- Queue the items that are due (retries, not-before items), look at the flights that are due, and end waiting items past their
-- expiry.
-- KEYS  1 prefix
-- ARGS  most: how many items expire, and how many others are queued or looked at
-- Returns  { moved, microseconds until the next one is due, or -1 }
-- One step, because an item is either in the delayed set or in a queue, never in both or neither.
-- @include base
-- @include states

local function due_in(set) return redis.call('ZRANGEBYSCORE', set, '-inf', NOW_US, 'LIMIT', 0, ARGS.most) end

-- Before the first write; the items of a flight are nearly always of one queue.
local function must_suit_uid(uid) must_suit_item(read_fields(item_key(uid), 'route', 'lane', 'cache')) end
for _, set in ipairs({ EXPIRING, DELAYED }) do
  for _, uid in ipairs(due_in(set)) do must_suit_uid(uid) end
end
for _, name in ipairs(due_in(FLIGHTS)) do
  must_suit('ZCARD', flight_key('flight', name))
  for _, uid in ipairs(redis.call('ZRANGE', flight_key('flight', name), 0, 0)) do must_suit_uid(uid) end
end

local moved, wait_us = 0, -1
local function take_due(set, act)
  for _, uid in ipairs(due_in(set)) do
    redis.call('ZREM', set, uid)
    local item = load_item(uid)
    if WAITING[item.state] and act(item) then moved = moved + 1 end
  end
end

take_due(EXPIRING, function(item) return not has_call(item) and finish_idle(item, 'expired') end)
take_due(DELAYED, function(item)
  queue_up(item, true)
  return true
end)
for _, name in ipairs(due_in(FLIGHTS)) do
  if moved < ARGS.most then moved = moved + look_at(name, ARGS.most - moved) end
end
conclude()

for _, set in ipairs({ EXPIRING, DELAYED, FLIGHTS }) do
  local next_us = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
  local gap_us = next_us and math.max(0, tonumber(next_us) - NOW)
  if gap_us and (wait_us < 0 or gap_us < wait_us) then wait_us = gap_us end
end
return { moved, int(wait_us) }
