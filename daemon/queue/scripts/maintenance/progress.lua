-- Take the batches whose counts changed since the last call, for their batch.progress events.
-- KEYS  1 prefix
-- ARGV  1 most batches a call  2 shortest time between two calls of the fleet (us)
-- Returns  a list of { gid, head, total, queued, throttled, retry_wait, running, succeeded, failed, cancelled, expired, held }
-- One step: the replica that takes a batch is the one that tells of it, so a batch is told of at most twice a second.
-- @include base

local stamp = P .. ':progress_at'
local last = tonumber(redis.call('GET', stamp) or '0')
if NOW - last < tonumber(ARGV[2]) and NOW >= last then return {} end
redis.call('SET', stamp, NOW_US, 'PX', 60000)

local taken = {}
for _, gid in ipairs(redis.call('SPOP', P .. ':dirty', ARGV[1])) do
  local f = redis.call('HMGET', group_key(gid), 'head', 'state', 'kind', 'total', 'queued', 'throttled', 'retry_wait',
    'running', 'succeeded', 'failed', 'cancelled', 'expired', 'held')
  if f[2] == 'running' and f[3] == 'batch' then
    local row = { gid, f[1] }
    for i = 4, 13 do row[#row + 1] = f[i] end
    taken[#taken + 1] = row
  end
end
return taken
