-- Counts that a script sums up and writes once at its end:
--   P:depth    items that have not ended, by route, queue and state
--   P:tenants  items of each tenant that wait, for its cap; items of a group count from when the group is opened
--   P:ended    ends outside of a run (cancel, expiry) by route and outcome, until a replica takes them into its metrics
-- @include base
-- @include transitions
local depth, waiting, ended = {}, {}, {}
must_suit('HLEN', P .. ':depth', P .. ':tenants', P .. ':ended')

local function count(sums, name, change) sums[name] = (sums[name] or 0) + change end

local function count_depth(item, state, change)
  if not FINAL[state] then count(depth, item.route .. '|' .. queue_of(item) .. '|' .. state, change) end
end

-- Whether `more` items would exceed the tenant's cap on waiting items; 0 is no cap.
local function is_full(tenant, more)
  if ARGS.cap == 0 then return false end
  local now = tonumber(redis.call('HGET', P .. ':tenants', tenant) or '0')
  return now + (waiting[tenant] or 0) + more > ARGS.cap
end

local function write_counts()
  for field, change in pairs(depth) do
    if change ~= 0 then redis.call('HINCRBY', P .. ':depth', field, change) end
  end
  for tenant, change in pairs(waiting) do
    if change ~= 0 and redis.call('HINCRBY', P .. ':tenants', tenant, change) <= 0 then
      redis.call('HDEL', P .. ':tenants', tenant)
    end
  end
  for field, change in pairs(ended) do redis.call('HINCRBY', P .. ':ended', field, change) end
end
