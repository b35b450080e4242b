-- Cancel one page of a group's members, or one item. What waits ends now; what runs is asked to stop.
-- KEYS  1 prefix
-- ARGV  1 records' retention (us)  2 failed records' retention (us)  3 group | item  4 gid or uid
--       5 first member  6 members a page  7 states, comma between (queued,throttled,retry_wait,running,held)
-- Returns  { state of affairs, next member or -1, cancelled, asked }; the state is ok | unknown
-- One step a page; a batch that is still being accepted is marked, so members that come later end as well.
-- A cancelled item's queue entry stays as a tombstone: XDEL of an undelivered entry would lose the group's lag.
-- @include base
-- @include events
-- @include ring
-- @include states

local cancelled, asked = 0, 0
local meant = {}
for state in string.gmatch(ARGV[7], '[^,]+') do meant[state] = true end

local function cancel(uid)
  local f = redis.call('HMGET', item_key(uid), 'state', 'group', 'head', 'route', 'lane', 'error')
  if not meant[f[1]] then return end
  if f[1] == 'held' and not is_resumable(f[6]) then redis.call('HSET', item_key(uid), 'receipt', '') end
  local record = { state = f[1], group = f[2], head = f[3], route = f[4], lane = f[5] }
  if finish_idle(uid, record, 'cancel_order') then
    cancelled = cancelled + 1
  elseif f[1] == 'running' then
    redis.call('HSET', item_key(uid), 'cancel', NOW_US)
    redis.call('PUBLISH', P .. ':bell', 'cancel ' .. uid)
    asked = asked + 1
  end
end

local id = ARGV[4]
if ARGV[3] == 'item' then
  if redis.call('EXISTS', item_key(id)) == 0 then return { 'unknown', -1, 0, 0 } end
  cancel(id)
  conclude()
  return { 'ok', -1, cancelled, asked }
end
if redis.call('EXISTS', group_key(id)) == 0 then return { 'unknown', -1, 0, 0 } end
if meant.queued and redis.call('HGET', group_key(id), 'state') == 'running' then
  -- Parts that have not come are not waited for any more.
  redis.call('HSET', group_key(id), 'cancel', NOW_US, 'parts_left', 0)
  if redis.call('HGET', group_key(id), 'open') == '0' then finish_group(id) end
end
local first, page = tonumber(ARGV[5]), tonumber(ARGV[6])
local members = redis.call('ZRANGE', P .. ':members:' .. id, first, first + page - 1)
for _, uid in ipairs(members) do cancel(uid) end
conclude()
return { 'ok', #members == page and first + page or -1, cancelled, asked }
