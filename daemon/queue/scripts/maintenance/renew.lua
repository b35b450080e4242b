-- Keep a replica's items: one heartbeat for all items that it runs.
-- KEYS  1 prefix
-- ARGS  worker, items: uid, epoch and what the record must have: intent_us, receipt or ''
-- Returns  'ours', 'lost', 'cancel' (ours, and a cancel was ordered) or 'bare' (ours, and Redis has lost that field) for each
--          item
-- One step with the check of the epoch: a replica that slept past its lease must not take back an item that another replica
-- reclaimed. JUSTID leaves the delivery counter alone; FORCE makes an entry pending again if a failover lost its group.
-- An entry that somebody trimmed is written again: without one nobody would find the item if its worker went silent. (The
-- reply to a claim shows that from Redis 7 on.) It is no tenant's entry in the ring, and a claim that reads it only steps
-- over it.
-- @include base

local results = {}
for i, pair in ipairs(ARGS.items) do
  local uid, epoch, noted = unpack(pair)
  local item = read_fields(item_key(uid), 'state', 'epoch', 'route', 'lane', 'place', 'entry', 'cancel',
    'intent_us', 'receipt')
  if item.state == 'running' and item.epoch == epoch then
    local stream = stream_key(item.route, queue_of(item))
    local claim = { 'XCLAIM', stream, 'workers', ARGS.worker, 0, item.entry, 'FORCE', 'JUSTID' }
    local claimed = redis.pcall(unpack(claim))
    if claimed.err then
      redis.call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
      claimed = redis.call(unpack(claim))
    end
    if #claimed == 0 then
      claim[6] = redis.call('XADD', stream, '*', 'u', uid)
      redis.call('HSET', item_key(uid), 'entry', claim[6])
      redis.call(unpack(claim))
    end
    local is_bare = noted ~= '' and (item[noted] or '') == ''
    results[i] = item.cancel and 'cancel' or is_bare and 'bare' or 'ours'
  else
    results[i] = 'lost'
  end
end
return results
