-- Release items that a worker claimed without knowing it: the reply to its claim was lost. No call was made for them.
-- KEYS  1 prefix
-- ARGS  route, worker, queues, known: what the worker knows of, each with uid and epoch: its runs and its latest settles
--       via: where several accounts serve the route, the one whose claim it was; the worker's other claims may be under way
-- Returns  how many items were released
-- One step with the check of the record, because a reclaim may take an item over at the same time. It counts a crash of such
-- an item; the worker may not know of it yet, and it is left alone.
-- A task, or an intent that is later than the claim, belongs to a run that did begin, so such items are left alone, too.
-- @include base
-- @include states
-- @include receipts

local MOST = 1000  -- pending entries of one queue; the rest is reclaimed
local known = {}
for _, pair in ipairs(ARGS.known) do known[pair[1] .. ' ' .. pair[2]] = true end

local function is_unknown(item, entry)
  return item.state == 'running' and item.entry == entry and item.worker == ARGS.worker
    and (not ARGS.via or item.via == ARGS.via)
    and not known[item.uid .. ' ' .. item.epoch] and not has_task(item) and number(item.crashes) == 0
    and ((item.intent_us or '') == '' or item.intent_us == item.started_us)
end

local released = 0
for _, queue in ipairs(ARGS.queues) do
  local stream = stream_key(ARGS.route, queue)
  local pending = redis.pcall('XPENDING', stream, 'workers', '-', '+', MOST, ARGS.worker)
  for _, row in ipairs(pending.err and {} or pending) do
    local id = row[1]
    local entry = redis.call('XRANGE', stream, id, id)[1]
    local item = entry and load_item(entry[2][2])
    if item and is_unknown(item, id) then
      redis.call('XACK', stream, 'workers', id)
      redis.call('XDEL', stream, id)
      requeue(item, 'released', NOW, { intent_us = '' })
      unpark(item.group)
      released = released + 1
    end
  end
end
conclude()
return released
