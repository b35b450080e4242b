-- Write down where running items stand with their provider: the intent before a call, the receipt after it.
-- KEYS  1 prefix
-- ARGV  1 number of items, then 4 for each: uid, epoch, what (intent|receipt), text (JSON of the receipt, or '')
-- Returns  { verdict, receipt or '' } for each item
--   intent   ours     it may be sent
--            go_on    a task of the item has come to light: nothing is sent, the receipt given is polled
--            lost     the item is not the caller's any more, and nothing may be sent
--   receipt  ours     noted
--            second   noted; a task that came late is not needed now, and is a dead letter
--            kept     the item is not the caller's any more; its record keeps the receipt for whoever has it
--            buried   likewise, and since nobody may need it there is a dead letter
-- One step with the check of the epoch: a worker that slept past its lease must not begin a paid call, and a receipt
-- that it brings must meet the new owner before the call (`go_on`), or its settle, and never pass it by.
-- @include base
-- @include events
-- @include receipts

local ENDED = { succeeded = true, failed = true, cancelled = true, expired = true }

local function bury_late(uid, head, text, attempts, polled_by_retry)
  local advice = polled_by_retry and 'Retrying the item polls this task and buys nothing.'
    or 'The item went on without it, so its picture may have been paid for and is not fetched.'
  local tenant, batch, item = split_uid(uid)
  head = head or string.format('"tenant":"%s","job":"%s","item":"%s","batch":%s', tenant, item, item,
    batch == '' and 'null' or '"' .. batch .. '"')
  bury('late_receipt', '{"kind":"late_receipt","message":"The provider accepted a call of this item whose worker was ' ..
    'taken for dead. ' .. advice .. '","charged":"maybe","retryable":false,"receipt":' .. text .. '}',
    attempts or 0, head, {})
end

local function noted_late(uid, key, record, text)
  if not record.state then
    bury_late(uid, nil, text)
    return 'buried'
  end
  -- Noted before, as its owner's or late: only the reply was lost.
  if record.receipt == text or record.late == text then return 'kept' end
  local free, needed = record.late == '', record.receipt == '' and record.state ~= 'succeeded'
  if free then redis.call('HSET', key, 'late_receipt', text) end
  if free and needed and not ENDED[record.state] then
    local _, batch = split_uid(uid)
    emit('job.submitted', record.head, batch, inside(text))
    return 'kept'
  end
  bury_late(uid, record.head, text, record.attempts, free and needed)
  return 'buried'
end

local function intent(key, record)
  local receipt = take_up(key, record.receipt, record.late)
  if receipt ~= '' then
    redis.call('HSET', key, 'intent_us', '')
    return { 'go_on', receipt }
  end
  redis.call('HSET', key, 'intent_us', NOW_US)
  return { 'ours', '' }
end

local function receipt(uid, key, record, text)
  local again = record.receipt == text
  redis.call('HSET', key, 'receipt', text)
  if again then return 'ours' end
  local _, batch = split_uid(uid)
  emit('job.submitted', record.head, batch, inside(text))
  if record.late == '' then return 'ours' end
  bury_late(uid, record.head, record.late, record.attempts, false)
  return 'second'
end

local results = {}
for i = 0, tonumber(ARGV[1]) - 1 do
  local uid, epoch, what, text = unpack(ARGV, 2 + i * 4, 5 + i * 4)
  local key = item_key(uid)
  local f = redis.call('HMGET', key, 'state', 'epoch', 'head', 'receipt', 'late_receipt', 'attempts')
  local record = { state = f[1], head = f[3], receipt = f[4] or '', late = f[5] or '', attempts = f[6] }
  local ours = f[1] == 'running' and f[2] == epoch
  if what == 'intent' then
    results[i + 1] = ours and intent(key, record) or { 'lost', '' }
  elseif ours then
    results[i + 1] = { receipt(uid, key, record, text), '' }
  else
    results[i + 1] = { noted_late(uid, key, record, text), '' }
  end
end
return results
