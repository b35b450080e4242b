-- End the run of items: what became of each, once.
-- KEYS  1 prefix
-- ARGV  1 records' retention (us)  2 failed records' retention (us)  3 number of items, then 6 for each:
--       uid, epoch, outcome, text (JSON object: the result or the error), delay (us), and whether the provider takes
--       money for the item's call (no | maybe | yes; '' where none was begun)
-- Outcomes  succeeded  failed  cancelled  held
--           retry      a real failure: costs an attempt; after the last one it is failed, with a dead letter
--           throttled  the provider asked to wait: costs nothing
--           unknown    a call was sent and its answer is lost: the job's on_unknown_outcome decides
--           missed     the picture that it was to have a copy of is not there: text is the entry that named it, or ''
--           released   not begun, or handed over: back to the queue unharmed
-- Where the item has a task that came late, retry, unknown, failed and held mean `in_reserve`: that task is polled.
-- Where a cancel was asked for meanwhile, all but succeeded and failed mean `cancelled`.
-- Returns  the state that each item has now, or 'lost' when it was not the caller's any more (nothing was changed).
--          Asked again, because the reply was lost: the state that it was given then. An item remembers its last settle.
-- One step: record, counts, event, XACK and XDEL are one fact, and the epoch fences a worker that lost its lease. A call
-- is written to the item's account here and nowhere before: a killed worker's call is its successor's to count, once.
-- @include base
-- @include events
-- @include ring
-- @include states

local FIELDS = { 'state', 'epoch', 'route', 'lane', 'entry', 'group', 'head', 'attempts', 'max_attempts', 'throttles',
  'spec', 'unknowns', 'cancel', 'settled', 'expires_us', 'late_receipt' }
local acks = {}

local function fail(uid, record, cause, err)
  local attempts = int(record.attempts + 1)
  return finish_item(uid, record, cause, '"error":' .. err .. ',"attempts":' .. attempts,
    { 'error', err, 'attempts', attempts })
end

-- The causes of an end that leave a dead letter are its reasons.
local function fail_for_good(uid, record, cause, err)
  bury(cause, err, int(record.attempts + 1), record.head, { 'data', record.spec })
  return fail(uid, record, cause, err)
end

local function tell_retry(uid, record, err, delay_us, attempts)
  local _, batch = split_uid(uid)
  emit('job.retrying', record.head, batch, '"error":' .. err .. ',"attempts":' .. attempts ..
    string.format(',"delay_seconds":%.3f', delay_us / 1000000))
end

local function is_past(us) return us ~= nil and us ~= '' and tonumber(us) <= NOW end

local outcomes = {}

function outcomes.succeeded(uid, record, text)
  return finish_item(uid, record, 'succeeded', inside(text), { 'result', text })
end

function outcomes.failed(uid, record, text)
  return fail(uid, record, 'failed', text)
end

function outcomes.held(uid, record, text)
  local state = next_state('held', record.state)
  redis.call('HSET', item_key(uid), 'state', state, 'error', text, 'since_us', NOW_US, 'entry', '', 'worker', '')
  count_move(uid, record, state)
  local _, batch = split_uid(uid)
  emit('job.held', record.head, batch, '"error":' .. text)
  return state
end

-- What went wrong on our side alone leaves the provider's task good: it is polled, and nothing is bought again.
local function without_task(fields, text)
  if not is_resumable(text) then fields[#fields + 1] = 'receipt'; fields[#fields + 1] = '' end
  return fields
end

-- The receipt that stays is good, for a retry to poll. `text` is what went wrong with the call that the cancel came too
-- late for; '{}' of a run that was stopped: then no task is left; '' of one that did nothing.
function outcomes.cancelled(uid, record, text)
  local fields = text == '{}' and { 'receipt', '' } or text ~= '' and without_task({ 'error', text }, text) or {}
  return finish_item(uid, record, 'cancelled', '', fields)
end

function outcomes.retry(uid, record, text, delay_us)
  if record.attempts + 1 >= record.max_attempts then return fail_for_good(uid, record, 'attempts_exhausted', text) end
  local attempts = int(record.attempts + 1)
  local state = requeue(uid, record, 'retry', NOW + delay_us,
    without_task({ 'attempts', attempts, 'crashes', 0, 'error', text, 'intent_us', '' }, text))
  tell_retry(uid, record, text, delay_us, attempts)
  return state
end

function outcomes.throttled(uid, record, text, delay_us)
  local state = requeue(uid, record, 'throttled', NOW + delay_us,
    without_task({ 'throttles', int(record.throttles + 1), 'crashes', 0, 'error', text, 'intent_us', '' }, text))
  tell_retry(uid, record, text, delay_us, int(record.attempts))
  return state
end

function outcomes.unknown(uid, record, text)
  local ok, spec = pcall(cjson.decode, record.spec)
  local policy = ok and spec.on_unknown_outcome or 'retry_once'
  if policy == 'hold' then return outcomes.held(uid, record, text) end
  -- After its expiry it would not be sent once more; and one that expires is told to have been free.
  if policy == 'fail' or record.unknowns >= 1 or is_past(record.expires_us) then
    return fail_for_good(uid, record, 'unknown_outcome', text)
  end
  local state = requeue(uid, record, 'unknown', NOW, { 'unknowns', 1, 'error', text, 'intent_us', '', 'receipt', '' })
  tell_retry(uid, record, text, 0, int(record.attempts))
  return state
end

-- What the run could not do, a task may have done whose receipt came late. The next claim takes that up, before anything
-- is given up or bought again.
function outcomes.in_reserve(uid, record, text)
  text = '{"resumable":true' .. (text == '{}' and '}' or ',' .. string.sub(text, 2))
  local fields = { 'receipt', '', 'intent_us', '', 'crashes', 0, 'error', text }
  local state = requeue(uid, record, 'in_reserve', NOW, fields)
  tell_retry(uid, record, text, 0, int(record.attempts))
  return state
end

function outcomes.released(uid, record)
  return requeue(uid, record, 'released', NOW, { 'intent_us', '' })
end

function outcomes.missed(uid, record, text)
  forget_picture(uid, text)
  return requeue(uid, record, 'missed', NOW, {})
end

local TELLS_AN_ERROR = { retry = true, throttled = true, unknown = true, held = true }
local NOT_ENDED = { missed = true, retry = true, throttled = true, released = true, unknown = true, held = true }
local WITHOUT_A_PICTURE = { retry = true, unknown = true, failed = true, held = true }

local function settle(uid, epoch, outcome, text, delay_us, charged)
  local f = redis.call('HMGET', item_key(uid), unpack(FIELDS))
  local asked = epoch .. ' ' .. outcome
  if f[1] ~= 'running' or f[2] ~= epoch then
    local before, given = string.match(f[14] or '', '^(%S+ %S+) (%S+)$')
    return before == asked and given or 'lost'
  end
  local record = { state = f[1], route = f[3], lane = f[4], group = f[6], head = f[7], attempts = tonumber(f[8]),
    max_attempts = tonumber(f[9]), throttles = tonumber(f[10]), spec = f[11], unknowns = tonumber(f[12]) or 0,
    expires_us = f[15], late_receipt = f[16] or '' }
  local stream = stream_key(f[3], f[4])
  acks[stream] = acks[stream] or {}
  table.insert(acks[stream], f[5])
  -- A cancel that came while it ran: what would run again, or be held for somebody to decide, does not.
  if f[13] and NOT_ENDED[outcome] then
    text = TELLS_AN_ERROR[outcome] and text or ''
    outcome = 'cancelled'
  elseif not f[13] and record.late_receipt ~= '' and WITHOUT_A_PICTURE[outcome] and not is_resumable(text) then
    outcome = 'in_reserve'
  end
  local state = outcomes[outcome](uid, record, text, delay_us)
  redis.call('HSET', item_key(uid), 'settled', asked .. ' ' .. state)
  if charged ~= '' then redis.call('HINCRBY', item_key(uid), 'calls_' .. charged, 1) end
  unpark(f[6])
  return state
end

local results = {}
for i = 0, tonumber(ARGV[3]) - 1 do
  local uid, epoch, outcome, text, delay_us, charged = unpack(ARGV, 4 + i * 6, 9 + i * 6)
  results[i + 1] = settle(uid, epoch, outcome, text, tonumber(delay_us), charged)
end
for stream, entries in pairs(acks) do
  redis.call('XACK', stream, 'workers', unpack(entries))
  redis.call('XDEL', stream, unpack(entries))
end
conclude()
return results
