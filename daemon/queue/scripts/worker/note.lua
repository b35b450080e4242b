-- Write down the progress of running items at their provider: the intent before a call, the receipt after it.
-- KEYS  1 prefix
-- ARGS  notes, each with uid, epoch, what (intent | receipt | remains), text (JSON of the receipt; may be '' for remains)
-- Returns  { verdict, receipt or '' } for each note
--   intent   ours     the call may be sent
--            go_on    the item already has a task: nothing is sent, and the returned receipt is polled
--            lost     the caller no longer owns the item, and nothing may be sent
--   receipt  ours     noted
--            second   noted; the item's late receipt is no longer needed and becomes a dead letter
--            kept     the caller no longer owns the item; the record keeps the receipt for the new owner
--            buried   as kept, and there is a dead letter, since the receipt may not be needed
--   remains  lost     the record did not lose the caller's claim, or a later claim needs no receipt: nothing was changed
--            kept     the record, which Redis took back to a time before the caller's claim, has the receipt, also for an
--                     owner that has claimed the item since; without a receipt it has an intent, and the next claim
--                     treats the call as unknown
--            buried   as above
-- One step with the check of the epoch: a worker that slept past its lease must not begin a paid call. The new owner must see
-- that worker's receipt before its own call (`go_on`) or at its settle.
-- @include base
-- @include events
-- @include life
-- @include receipts
-- @include transitions

local function bury_late(item, text, polled_by_retry)
  local advice = polled_by_retry and 'Retrying the item polls this task and buys nothing.'
    or 'The item went on without it, so its picture may have been paid for and is not fetched.'
  local head = item.head or string.format('"tenant":"%s","job":"%s","item":"%s","batch":%s', item.tenant, item.name,
    item.name, item.batch == '' and 'null' or '"' .. item.batch .. '"')
  bury('late_receipt', '{"kind":"late_receipt","message":"The provider accepted a call of this item whose worker was ' ..
    'taken for dead. ' .. advice .. '","charged":"maybe","retryable":false,"receipt":' .. text .. '}',
    int(number(item.attempts)), head, {})
end

local function note_late(item, text)
  if not item.state then
    bury_late(item, text)
    return 'buried'
  end
  -- The receipt was noted before, as the owner's or as a late one; only the reply was lost.
  if item.receipt == text or item.late_receipt == text then return 'kept' end
  local free = (item.late_receipt or '') == ''
  local needed = (item.receipt or '') == '' and item.state ~= 'succeeded'
  if free then update(item, { late_receipt = text }) end
  if free and needed and not FINAL[item.state] then
    emit('job.submitted', item, inside(text))
    return 'kept'
  end
  bury_late(item, text, free and needed)
  return 'buried'
end

local function note_intent(item)
  local receipt = take_up(item)
  update(item, { intent_us = receipt == '' and NOW_US or '' })
  return receipt == '' and 'ours' or 'go_on', receipt
end

local function note_receipt(item, text)
  if item.receipt == text then return 'ours' end
  update(item, { receipt = text })
  emit('job.submitted', item, inside(text))
  if (item.late_receipt or '') == '' then return 'ours' end
  bury_late(item, item.late_receipt, false)
  return 'second'
end

-- Epochs only grow. So a record with a smaller one is older than the caller's claim. One with a greater one was claimed since:
-- it knows of the caller's claim unless that was in an earlier life. Then the new owner needs the receipt before its own call.
-- A receipt that the record does know may have been dropped since, with its task.
local function note_remains(item, n)
  local theirs, ours = number(item.epoch), number(n.epoch)
  local is_older = not item.state or theirs < ours
  if n.text ~= '' and (is_older or theirs > ours and ours < life_began_us()) then return note_late(item, n.text) end
  if not is_older or not WAITING[item.state] then return 'lost' end
  update(item, { intent_us = NOW_US })
  return 'kept'
end

local function is_callers(item, n) return item.state == 'running' and item.epoch == n.epoch end

local function note(n)
  if n.what == 'intent' then
    local item = read_fields(item_key(n.uid), 'state', 'epoch', 'receipt', 'late_receipt')
    item.key = item_key(n.uid)
    if is_callers(item, n) then return note_intent(item) end
    return 'lost'
  end
  local item = load_item(n.uid)
  if n.what == 'remains' then return note_remains(item, n) end
  return is_callers(item, n) and note_receipt(item, n.text) or note_late(item, n.text)
end

local results = {}
for i, n in ipairs(ARGS.notes) do
  local verdict, receipt = note(n)
  results[i] = { verdict, receipt or '' }
end
return results
