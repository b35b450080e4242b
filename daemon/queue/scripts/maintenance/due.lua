-- Bring what is due: retries and not-before items to their queues, and waiting items past their time to their end.
-- KEYS  1 prefix
-- ARGV  1 records' retention (us)  2 failed records' retention (us)  3 most items a call
-- Returns  { moved, microseconds until the next one is due, or -1 }
-- One step, because an item is either in the delayed set or in a backlog, never in both or neither. Who looks again
-- (include/flight.lua) has joined, or stands in its backlog and may be copied instead.
-- @include base
-- @include events
-- @include ring
-- @include states

local most = tonumber(ARGV[3])
local moved = 0
local EXPIRING = P .. ':expiring'

local function take_due(set, act)
  local due = redis.call('ZRANGEBYSCORE', set, '-inf', NOW_US, 'LIMIT', 0, most)
  for _, uid in ipairs(due) do
    redis.call('ZREM', set, uid)
    local f = redis.call('HMGET', item_key(uid), 'state', 'route', 'lane', 'group', 'head', 'receipt', 'late_receipt')
    if WAITING[f[1]] and not (set == EXPIRING and has_task(f[6], f[7])) then
      act(uid, { state = f[1], route = f[2], lane = f[3], group = f[4], head = f[5] })
      moved = moved + 1
    end
  end
end

-- What expires while it stands in a backlog stays there as a tombstone; the claim steps over it. What has a task has
-- started, so it does not expire.
take_due(EXPIRING, function(uid, record) finish_idle(uid, record, 'expired') end)
local DELAYED = P .. ':delayed'
for _, set in ipairs({ DELAYED, LOOKS }) do
  take_due(set, function(uid, record) queue_up(uid, record, true) end)
end
conclude()

local wait = -1
for _, set in ipairs({ EXPIRING, DELAYED, LOOKS }) do
  local head = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  if head[2] then
    local gap = math.max(0, tonumber(head[2]) - NOW)
    if wait < 0 or gap < wait then wait = gap end
  end
end
return { moved, int(wait) }
