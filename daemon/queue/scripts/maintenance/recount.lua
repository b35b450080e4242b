-- Count anew how many items of each tenant wait, for its cap: a replica of an older version claims without counting, and
-- what it leaves behind would narrow the cap for good.
-- KEYS  1 prefix
-- ARGV  1 most items to look at, so that the script stays short
-- Returns  how many tenants had a wrong count; -1 where more items wait, and nothing was looked at. A part that comes late
--          for a batch which has ended is not seen while it is accepted: that tenant's count is too low until the next one.
-- One step: between a look and a correction items begin and end to wait.
-- @include base

local routes, total = {}, redis.call('ZCARD', P .. ':active')
local depth = redis.call('HGETALL', P .. ':depth')
for i = 1, #depth, 2 do
  local route = string.match(depth[i], '^[^|]*')
  if not routes[route] then
    routes[route] = true
    total = total + redis.call('ZCARD', P .. ':waiting:' .. route)
  end
end
if total > tonumber(ARGV[1]) then return -1 end

local counts = {}
local function count(tenant, number)
  if number > 0 then counts[tenant] = (counts[tenant] or 0) + number end
end
for route in pairs(routes) do
  for _, uid in ipairs(redis.call('ZRANGE', P .. ':waiting:' .. route, 0, -1)) do count((split_uid(uid)), 1) end
end
-- Items of a group count from when it is opened.
for _, gid in ipairs(redis.call('ZRANGE', P .. ':active', 0, -1)) do
  local members = tonumber(redis.call('HGET', group_key(gid), 'total')) or 0
  count(string.match(gid, '^[^/]*'), members - redis.call('ZCARD', P .. ':members:' .. gid))
end

local wrong = 0
local known = redis.call('HGETALL', P .. ':tenants')
for i = 1, #known, 2 do
  if not counts[known[i]] then
    redis.call('HDEL', P .. ':tenants', known[i])
    wrong = wrong + 1
  elseif counts[known[i]] == tonumber(known[i + 1]) then
    counts[known[i]] = nil
  end
end
for tenant, number in pairs(counts) do
  redis.call('HSET', P .. ':tenants', tenant, number)
  wrong = wrong + 1
end
return wrong
