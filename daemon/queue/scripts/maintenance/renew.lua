-- Keep what is ours: one heartbeat for all items that a replica runs.
-- KEYS  1 prefix
-- ARGV  1 worker  2 number of items, then 2 for each: uid, epoch
-- Returns  'ours', 'lost' or 'cancel' (ours, and somebody asked to cancel it) for each item
-- One step with the check of the epoch: a replica that slept past its lease must not take back what another
-- one reclaimed. JUSTID leaves the delivery counter alone; FORCE makes an entry pending
-- again whose group was lost with a failover.
-- @include base

local worker = ARGV[1]
local results = {}
for i = 0, tonumber(ARGV[2]) - 1 do
  local uid, epoch = ARGV[3 + i * 2], ARGV[4 + i * 2]
  local f = redis.call('HMGET', item_key(uid), 'state', 'epoch', 'route', 'lane', 'entry', 'cancel')
  if f[1] == 'running' and f[2] == epoch then
    local stream = stream_key(f[3], f[4])
    local claimed = redis.pcall('XCLAIM', stream, 'workers', worker, 0, f[5], 'FORCE', 'JUSTID')
    if claimed.err then
      redis.call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
      redis.call('XCLAIM', stream, 'workers', worker, 0, f[5], 'FORCE', 'JUSTID')
    end
    results[i + 1] = f[6] and 'cancel' or 'ours'
  else
    results[i + 1] = 'lost'
  end
end
return results
