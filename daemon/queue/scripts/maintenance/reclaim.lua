-- Take over items whose worker went silent: one page of a ready stream's pending entries.
-- KEYS  1 prefix
-- ARGV  1 records' retention (us)  2 failed records' retention (us)  3 route  4 lane  5 worker
--       6 lease (ms)  7 cursor  8 count  9 most crashes in a row  10 not after (us)
-- Returns  { next cursor, items, poisoned, calls }, `calls` being whether the provider takes money for each call of the
--          poisoned that nobody has counted (maybe | yes), and an item
--          { uid, lane, entry, epoch, spec, attempts, deliveries, throttles, accepted_us, queue_us, throttled_us,
--            receipt, waived, intent_us, permit }
-- One step: the new owner, the new epoch (which fences the old one) and the delivery count are one fact.
-- The caller keeps the cursor between calls: XAUTOCLAIM scans at most 10 x COUNT entries, so one that always
-- starts at 0-0 never sees a dead entry behind many live ones.
-- JUSTID: Redis 6.2 lists a pending entry that somebody deleted as nil, without its id, and keeps it pending for ever;
-- by its id it can be taken off. Redis 7 and Valkey take it off by themselves.
-- @include base
-- @include events
-- @include ring
-- @include states

local route, lane, worker = ARGV[3], ARGV[4], ARGV[5]
-- Asked long ago: the server or the way to it stood still, and then so did everybody's heartbeat.
if NOW > tonumber(ARGV[10]) then return { '0-0', {}, 0, {} } end
local stream = stream_key(route, lane)
local reply = redis.pcall('XAUTOCLAIM', stream, 'workers', worker, ARGV[6], ARGV[7], 'COUNT', ARGV[8], 'JUSTID')
if reply.err then return { '0-0', {}, 0, {} } end  -- no stream or group yet

local FIELDS = { 'state', 'entry', 'epoch', 'spec', 'attempts', 'deliveries', 'throttles', 'accepted_us', 'queue_us',
  'throttled_us', 'receipt', 'intent_us', 'permit', 'group', 'head', 'crashes', 'waived', 'late_receipt' }

local items, poisoned, calls = {}, 0, {}
for _, id in ipairs(reply[2]) do
  local entry = redis.call('XRANGE', stream, id, id)[1]
  local uid = entry and entry[2][2]
  local f = uid and redis.call('HMGET', item_key(uid), unpack(FIELDS))
  if not f or not next_state('reclaimed', f[1]) or f[2] ~= id then
    redis.call('XACK', stream, 'workers', id)
    redis.call('XDEL', stream, id)
  else
    local receipt = take_up(item_key(uid), f[11], f[18])
    local deliveries, crashes = tonumber(f[6]) + 1, (tonumber(f[16]) or 0) + 1
    if crashes > tonumber(ARGV[9]) then
      -- With a task id a person's retry polls the task; it buys nothing.
      local task = receipt ~= ''
      local err = cjson.encode({ kind = 'poison', charged = task and 'yes' or 'maybe', retryable = false,
        resumable = task or nil, message = 'The worker that ran this job went away ' .. int(crashes) .. ' times; it is not tried again.' })
      local record = { state = f[1], group = f[14], head = f[15], route = route, lane = lane }
      finish_item(uid, record, 'poison', '"error":' .. err, { 'error', err })
      bury('poison', err, f[5], f[15], { 'data', f[4] })
      redis.call('XACK', stream, 'workers', id)
      redis.call('XDEL', stream, id)
      unpark(f[14])
      poisoned = poisoned + 1
      if (f[12] or '') ~= '' then
        calls[#calls + 1] = task and 'yes' or 'maybe'
        redis.call('HINCRBY', item_key(uid), 'calls_' .. calls[#calls], 1)
      end
    else
      local epoch = int(tonumber(f[3]) + 1)
      redis.call('HSET', item_key(uid), 'worker', worker, 'epoch', epoch, 'deliveries', int(deliveries),
        'crashes', int(crashes))
      items[#items + 1] = { uid, lane, id, epoch, f[4], f[5], int(deliveries), f[7], f[8], f[9], f[10],
        receipt, f[17] or '', f[12] or '', f[13] or '' }
    end
  end
end
conclude()
return { reply[1], items, poisoned, calls }
