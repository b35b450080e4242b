-- Take over items whose worker went silent: one page of the pending entries of a queue's stream.
-- KEYS  1 prefix
-- ARGS  route, queue, worker, lease_ms, cursor, count, most_crashes (in a row), not_after_us, fields: see `fields_of`
-- Returns  { next cursor, items: the fields of each, poisoned, calls }; `calls` is, for each uncounted call of a poisoned
--          item, whether the provider charges it (maybe | yes); `survived` of an item: it was claimed in an earlier life of
--          the server, and its intent may be lost
-- One step: the new owner, the new epoch (which fences the old one) and the delivery count are one fact.
-- The caller keeps the cursor between calls: XAUTOCLAIM scans at most 10 x COUNT entries, so a scan that always starts at
-- 0-0 never reaches a dead entry behind many live ones.
-- JUSTID: without it Redis 6.2 lists a deleted pending entry as nil, without its id, and keeps it pending for ever. With the
-- id the entry can be removed. Redis 7 and Valkey remove it by themselves.
-- @include base
-- @include states
-- @include life

-- This call was delayed: the server or the network stood still, and so did the heartbeats of all workers.
if NOW > ARGS.not_after_us then return { '0-0', {}, 0, {} } end
local stream = stream_key(ARGS.route, ARGS.queue)
-- There may be no stream or group yet. A stream of another type must not keep other queues from their reclaim.
local ABSENT = { 'NOGROUP', 'WRONGTYPE' }
local reply = unless(ABSENT, 'XAUTOCLAIM', stream, 'workers', ARGS.worker, ARGS.lease_ms, ARGS.cursor,
  'COUNT', ARGS.count, 'JUSTID')
if not reply then return { '0-0', {}, 0, {} } end

local function drop(entry)
  redis.call('XACK', stream, 'workers', entry)
  redis.call('XDEL', stream, entry)
end

local poisoned, calls = 0, {}
local function give_up(item, crashes)
  -- If there is a task id, a person's retry polls that task and buys nothing.
  local has_receipt = item.receipt ~= nil and item.receipt ~= ''
  local charged = has_receipt and 'yes' or 'maybe'
  local err = cjson.encode({ kind = 'poison', charged = charged, retryable = false, resumable = has_receipt or nil,
    message = 'No worker came to the end of this job in ' .. int(crashes) .. ' runs: each went away, or could not read ' ..
      'the record. It is not tried again.' })
  finish_item(item, 'poison', { error = err }, '"error":' .. err)
  bury('poison', err, int(number(item.attempts)), item.head, { 'data', item.spec })
  drop(item.entry)
  unpark(item.group)
  poisoned = poisoned + 1
  if (item.intent_us or '') ~= '' then
    calls[#calls + 1] = charged
    redis.call('HINCRBY', item.key, 'calls_' .. charged, 1)
  end
end

local items, life_us = {}, life_began_us()
local function take_over(item, crashes)
  update(item, { worker = ARGS.worker, epoch = next_epoch(item),
    deliveries = int(number(item.deliveries) + 1), crashes = int(crashes) })
  item.survived = number(item.started_us) < life_us and '1' or nil
  items[#items + 1] = fields_of(item)
end

for _, id in ipairs(reply[2]) do
  local entry = redis.call('XRANGE', stream, id, id)[1]
  local item = entry and load_item(entry[2][2])
  if not item or not next_state('reclaimed', item.state) or item.entry ~= id then
    drop(id)
  else
    take_up(item)
    local crashes = number(item.crashes) + 1
    if crashes > ARGS.most_crashes then give_up(item, crashes) else take_over(item, crashes) end
  end
end
conclude()
return { reply[1], items, poisoned, calls }
