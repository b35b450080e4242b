-- Start the retention clock of ended groups, or stop it if a retry has opened the group again: one page of the members of
-- one group.
-- KEYS  1 prefix
-- ARGS  page: members a call
-- Returns  1, or 0 when no group is left
-- One step a page: a group leaves the janitor's list only after its last member. A group that ends or opens meanwhile starts
-- again from its first member (`closed_to`), so all members end together.
-- @include base
-- @include groups

local gid = redis.call('ZRANGE', CLOSING, 0, 0)[1]
if not gid then return 0 end
local group = load_group(gid)
local ttl_ms = retention_ms(group.state == 'completed')
local function set_clock(key)
  if group.state == 'running' then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, ttl_ms) end
end

local first = tonumber(group.closed_to or '0')
local uids = group.state and redis.call('ZRANGE', members_key(gid), first, first + ARGS.page - 1) or {}
for _, uid in ipairs(uids) do set_clock(item_key(uid)) end
if #uids == ARGS.page then
  update(group, { closed_to = int(first + ARGS.page) })
  return 1
end
redis.call('HDEL', group.key, 'closed_to')
redis.call('ZREM', CLOSING, gid)
-- Without a record nothing is ours: another tenant's batch of that name shares the events.
if group.state then
  for _, key in ipairs(own_keys(group)) do set_clock(key) end
end
return 1
