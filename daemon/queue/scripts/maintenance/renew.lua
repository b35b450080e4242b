-- Keep a replica's items: one heartbeat for all items that it runs.
-- KEYS  1 prefix
-- ARGS  worker, items: pairs of uid and epoch
-- Returns  'ours', 'lost' or 'cancel' (ours, and a cancel was ordered) for each item
-- One step with the check of the epoch: a replica that slept past its lease must not take back an item that another replica
-- reclaimed. JUSTID leaves the delivery counter alone; FORCE makes an entry pending again if a failover lost its group.
-- @include base

local results = {}
for i, pair in ipairs(ARGS.items) do
  local uid, epoch = unpack(pair)
  local item = read_fields(item_key(uid), 'state', 'epoch', 'route', 'lane', 'place', 'entry', 'cancel')
  if item.state == 'running' and item.epoch == epoch then
    local stream = stream_key(item.route, queue_of(item))
    local claim = { 'XCLAIM', stream, 'workers', ARGS.worker, 0, item.entry, 'FORCE', 'JUSTID' }
    if redis.pcall(unpack(claim)).err then
      redis.call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
      redis.call(unpack(claim))
    end
    results[i] = item.cancel and 'cancel' or 'ours'
  else
    results[i] = 'lost'
  end
end
return results
