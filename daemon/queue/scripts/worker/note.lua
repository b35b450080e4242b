-- Write down where running items stand with their provider: the intent before a call, the receipt after it.
-- KEYS  1 prefix
-- ARGS  notes, each with uid, epoch, what (intent | receipt), text (JSON of the receipt)
-- Returns  { verdict, receipt or '' } for each note
--   intent   ours     it may be sent
--            go_on    a task of the item has come to light: nothing is sent, the receipt given is polled
--            lost     the item is not the caller's any more, and nothing may be sent
--   receipt  ours     noted
--            second   noted; a task that came late is not needed now, and is a dead letter
--            kept     the item is not the caller's any more; its record keeps the receipt for its owner
--            buried   likewise, and since it may not be needed there is a dead letter
-- One step with the check of the epoch: a worker that slept past its lease must not begin a paid call, and a receipt that it
-- brings must meet the new owner before the call (`go_on`), or its settle, and never pass it by.
-- @include base
-- @include events
-- @include receipts
-- @include transitions

local function bury_late(item, text, polled_by_retry)
  local advice = polled_by_retry and 'Retrying the item polls this task and buys nothing.'
    or 'The item went on without it, so its picture may have been paid for and is not fetched.'
  local head = item.head or string.format('"tenant":"%s","job":"%s","item":"%s","batch":%s', item.tenant, item.name,
    item.name, item.batch == '' and 'null' or '"' .. item.batch .. '"')
  bury('late_receipt', '{"kind":"late_receipt","message":"The provider accepted a call of this item whose worker was ' ..
    'taken for dead. ' .. advice .. '","charged":"maybe","retryable":false,"receipt":' .. text .. '}',
    item.attempts or 0, head, {})
end

local function note_late(item, text)
  if not item.state then
    bury_late(item, text)
    return 'buried'
  end
  -- Noted before, as its owner's or late: only the reply was lost.
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

local function note(n)
  local item = load_item(n.uid)
  local is_ours = item.state == 'running' and item.epoch == n.epoch
  if n.what == 'receipt' then return is_ours and note_receipt(item, n.text) or note_late(item, n.text) end
  if is_ours then return note_intent(item) end
  return 'lost'
end

local results = {}
for i, n in ipairs(ARGS.notes) do
  local verdict, receipt = note(n)
  results[i] = { verdict, receipt or '' }
end
return results
