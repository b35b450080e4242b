-- Take the batches whose counts have changed since the last call, for their batch.progress events.
-- KEYS  1 prefix
-- ARGS  most: batches a call, gap_us: the shortest time between two calls of the fleet
-- Returns  for each { gid, head, total, queued, throttled, retry_wait, running, succeeded, failed, cancelled, expired, held }
-- One step: only the replica that takes a batch publishes its progress, so the fleet does not exceed the rate of `gap_us`.
-- @include base
-- @include groups

local stamp = P .. ':progress_at'
local last = tonumber(redis.call('GET', stamp) or '0')
if NOW - last < ARGS.gap_us and NOW >= last then return {} end
redis.call('SET', stamp, NOW_US, 'PX', 60000)

local COUNTS = { 'total', 'queued', 'throttled', 'retry_wait', 'running', 'succeeded', 'failed', 'cancelled', 'expired', 'held' }
local taken = {}
for _, gid in ipairs(redis.call('SPOP', DIRTY, ARGS.most)) do
  local group = read_fields(group_key(gid), 'head', 'state', 'kind', unpack(COUNTS))
  if group.state == 'running' and group.kind == 'batch' then
    local row = { gid, group.head }
    for _, name in ipairs(COUNTS) do row[#row + 1] = group[name] end
    taken[#taken + 1] = row
  end
end
return taken
