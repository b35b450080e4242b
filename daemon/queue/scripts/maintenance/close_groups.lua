-- Start the retention clock of ended groups, and stop that of groups which a retry has opened again: one page of the
-- members of one group.
-- KEYS  1 prefix
-- ARGV  1 records' retention (us)  2 failed records' retention (us)  3 members a page
-- Returns  { gid or '', 1 when that group is done }
-- One step a page: a group leaves the janitor's list only when its last member has its time to live, or has none any
-- more. A group that ends or is opened meanwhile is begun anew (`closed_to`), so its members always live alike.
-- @include base
-- @include events
-- @include ring
-- @include states

local head = redis.call('ZRANGE', P .. ':closing', 0, 0)
local gid = head[1]
if not gid then return { '', 1 } end
local group, members = group_key(gid), P .. ':members:' .. gid
local state = redis.call('HGET', group, 'state')
if not state then
  redis.call('ZREM', P .. ':closing', gid)
  return { gid, 1 }
end
local opened_again = state == 'running'
local ttl_ms = math.ceil(retention_us(state == 'completed' and 'succeeded' or 'failed') / 1000)
local page = tonumber(ARGV[3])
local first = tonumber(redis.call('HGET', group, 'closed_to') or '0')
local uids = redis.call('ZRANGE', members, first, first + page - 1)
for _, uid in ipairs(uids) do
  if opened_again then redis.call('PERSIST', item_key(uid)) else redis.call('PEXPIRE', item_key(uid), ttl_ms) end
end
if #uids == page then
  redis.call('HSET', group, 'closed_to', int(first + page))
  return { gid, 0 }
end
redis.call('HDEL', group, 'closed_to')
redis.call('ZREM', P .. ':closing', gid)
if opened_again then return { gid, 1 } end
redis.call('PEXPIRE', members, ttl_ms)
redis.call('PEXPIRE', group, ttl_ms)
local _, batch = string.match(gid, '^([^/]*)/(.*)$')
redis.call('PEXPIRE', P .. ':events:' .. batch, ttl_ms)
return { gid, 1 }
