-- End the run of items: write each outcome, once.
-- KEYS  1 prefix
-- ARGS  reports, each with uid, epoch, outcome, and as that needs them: result (JSON), error (JSON), delay_us, entry;
--       charged: whether the provider charges the item's call (no | maybe | yes), absent if no call was begun
--       cost and currency, where the provider names what the call cost
-- Outcomes  succeeded  failed  cancelled  held
--           retry      a real failure: costs an attempt; after the last attempt the item fails, with a dead letter
--           throttled  the provider wants us to wait: costs nothing
--           unknown    a call was sent and its answer is lost: the job's on_unknown_outcome decides
--           missed     the picture to copy has ended; `entry` is the cache entry that named it, or ''
--           released   not begun, or handed over: the item goes back to the queue unchanged
-- If the item has a late receipt, retry, unknown, failed and held become `in_reserve`: that task is polled.
-- If a cancel came meanwhile, all outcomes but succeeded and failed become `cancelled`.
-- Returns  the state that each item has now, or 'lost' when the caller no longer owned it (nothing was changed). An item
--          remembers its last settle, so a call that is repeated after a lost reply has the same reply.
-- One step: record, counts, event, XACK and XDEL are one fact, and the epoch fences a worker that lost its lease. A call is
-- counted in the item's record only here, so the next owner counts a killed worker's call, once.
-- @include base
-- @include states

local function fail(item, cause, err)
  local attempts = int(number(item.attempts) + 1)
  return finish_item(item, cause, { error = err, attempts = attempts }, '"error":' .. err .. ',"attempts":' .. attempts)
end

-- The reason of a dead letter is the cause of the item's end.
local function fail_for_good(item, cause, err)
  bury(cause, err, int(number(item.attempts) + 1), item.head, { 'data', item.spec })
  return fail(item, cause, err)
end

-- An error that is only on our side leaves the provider's task good: it is polled, and nothing is bought again.
local function drop_task(fields)
  if not is_resumable(fields.error) then fields.receipt = '' end
  return fields
end

local function try_again(item, cause, delay_us, fields)
  fields.intent_us = ''
  return requeue(item, cause, NOW + delay_us, fields, 'job.retrying', string.format(
    '"error":%s,"attempts":%s,"delay_seconds":%.3f,"state":"%s"', fields.error, fields.attempts or int(number(item.attempts)),
    delay_us / 1000000, next_state(cause, item.state)))
end

local outcomes = {}

function outcomes.succeeded(item, report)
  return finish_item(item, 'succeeded', { result = report.result }, inside(report.result))
end

function outcomes.failed(item, report)
  return fail(item, 'failed', report.error)
end

function outcomes.held(item, report)
  return move(item, 'held', { error = report.error, since_us = NOW_US, entry = '', worker = '' }, 'job.held',
    '"error":' .. report.error)
end

-- The run was stopped while that was free, so no task is left.
function outcomes.cancelled(item)
  return finish_item(item, 'cancelled', { receipt = '' })
end

function outcomes.retry(item, report)
  if number(item.attempts) + 1 >= tonumber(item.max_attempts) then
    return fail_for_good(item, 'attempts_exhausted', report.error)
  end
  return try_again(item, 'retry', report.delay_us,
    drop_task({ attempts = int(number(item.attempts) + 1), crashes = 0, error = report.error }))
end

function outcomes.throttled(item, report)
  return try_again(item, 'throttled', report.delay_us,
    drop_task({ throttles = int(number(item.throttles) + 1), crashes = 0, error = report.error }))
end

function outcomes.unknown(item, report)
  local ok, spec = pcall(cjson.decode, item.spec)
  local policy = ok and spec.on_unknown_outcome or 'retry_once'
  if policy == 'hold' then return outcomes.held(item, report) end
  -- An item past its expiry would not be sent again, and it must not end as `expired`, which reports that it was free.
  if policy == 'fail' or (item.unknowns or '0') ~= '0' or is_past(item.expires_us) then
    return fail_for_good(item, 'unknown_outcome', report.error)
  end
  return try_again(item, 'unknown', 0, { unknowns = 1, error = report.error, receipt = '' })
end

-- A task with a late receipt may have made the picture that the run could not make. The next claim polls it before the item
-- is given up or bought again.
local function fall_back(item, report)
  return try_again(item, 'in_reserve', 0, { receipt = '', crashes = 0, error = '{"resumable":true,' .. string.sub(report.error, 2) })
end

function outcomes.released(item)
  return requeue(item, 'released', NOW, { intent_us = '' })
end

function outcomes.missed(item, report)
  forget_picture(item, report.entry)
  return requeue(item, 'missed', NOW, {})
end

-- A cancel came while it ran: an item that would run again or be held ends instead. The error of its call stays.
local function cancel_instead(item, report)
  return finish_item(item, 'cancelled', report.error and drop_task({ error = report.error }) or {})
end

local ENDED = { succeeded = true, failed = true, cancelled = true }
local WITHOUT_A_PICTURE = { retry = true, unknown = true, failed = true, held = true }

local function act_on(item, report)
  local outcome = report.outcome
  if item.cancel and not ENDED[outcome] then return cancel_instead(item, report) end
  local has_reserve = not item.cancel and (item.late_receipt or '') ~= ''
  if has_reserve and WITHOUT_A_PICTURE[outcome] and not is_resumable(report.error) then return fall_back(item, report) end
  return outcomes[outcome](item, report)
end

-- The use of this day, by route and tenant, kept for a year and a month.
local USAGE = P .. ':usage:' .. string.sub(NOW_ISO, 1, 10)
must_suit('HLEN', USAGE)
local usage = {}
local function note_usage(item, state, report)
  local owner = item.route .. '|' .. item.tenant .. '|'
  if state == 'succeeded' then count(usage, owner .. 'pictures', 1) end
  if report.charged then count(usage, owner .. 'calls_' .. report.charged, 1) end
  if report.cost then count(usage, owner .. 'cost_' .. report.currency, tonumber(report.cost)) end
end

local function write_usage()
  for field, change in pairs(usage) do redis.call('HINCRBYFLOAT', USAGE, field, string.format('%.12g', change)) end
  if next(usage) then redis.call('EXPIRE', USAGE, 395 * 86400) end
end

-- A success needs a part of its record, and most settles are one.
local function load(report)
  if report.outcome ~= 'succeeded' then return load_item(report.uid) end
  return name_item(report.uid, read_fields(item_key(report.uid), 'state', 'epoch', 'settled', 'route', 'lane', 'place', 'entry',
    'group', 'head', 'cache', 'flight', 'calls_' .. (report.charged or '')))
end

-- All records are read, and what can fail is looked at, before the first write.
local loaded = {}
for _, report in ipairs(ARGS.reports) do
  loaded[report.uid] = loaded[report.uid] or load(report)
  must_suit_item(loaded[report.uid])
end

-- The record of an item; a second report of it finds what the first one has written.
local function take_loaded(report)
  local item = loaded[report.uid] or load(report)
  loaded[report.uid] = nil
  return item
end

local acks = {}
local function settle(report)
  local item = take_loaded(report)
  item.settling, item.charged = report.epoch .. ' ' .. report.outcome, report.charged
  if item.state ~= 'running' or item.epoch ~= report.epoch then
    local before, state = string.match(item.settled or '', '^(%S+ %S+) (%S+)$')
    return before == item.settling and state or 'lost'
  end
  local stream = stream_key(item.route, queue_of(item))
  acks[stream] = acks[stream] or {}
  table.insert(acks[stream], item.entry)
  local state = act_on(item, report)
  note_usage(item, state, report)
  unpark(item.group)
  return state
end

local results = {}
for i, report in ipairs(ARGS.reports) do results[i] = settle(report) end
for stream, entries in pairs(acks) do
  redis.call('XACK', stream, 'workers', unpack(entries))
  redis.call('XDEL', stream, unpack(entries))
end
write_usage()
conclude()
return results
