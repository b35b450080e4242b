-- How many items of each tenant wait (queued, throttled, retry_wait), for its cap: the hash `{prefix}:tenants`, in which a
-- tenant has a field only while something waits. Items of a group count from when it is opened.
-- Summed up here and written once a call by write_waiting().
local waiting_change = {}
local function count_waiting(tenant, change) waiting_change[tenant] = (waiting_change[tenant] or 0) + change end

-- Whether `more` items would be more than a tenant may have waiting; a cap of '' or 0 is none.
local function is_full(tenant, more, cap)
  cap = tonumber(cap) or 0
  if cap == 0 then return false end
  local waiting = tonumber(redis.call('HGET', P .. ':tenants', tenant) or '0')
  return waiting + (waiting_change[tenant] or 0) + more > cap
end

local function write_waiting()
  for tenant, change in pairs(waiting_change) do
    if change ~= 0 and redis.call('HINCRBY', P .. ':tenants', tenant, change) <= 0 then
      redis.call('HDEL', P .. ':tenants', tenant)
    end
  end
end
