-- Queue again one item, or one page of a group's members, that ended without a picture or are held: a person's order.
-- KEYS  1 prefix
-- ARGS  see include/orders.lua; states of failed, held, cancelled, expired
--       since_us: for an order that repeats an earlier one, the time of that; what has run or ended since then stays
--       letter: for an item, the dead letter that goes with it; if that has been removed before, nothing is done
-- Returns  { ok | unknown | gone (that dead letter), next member or -1, queued again }
-- `waived_us` is the time of the retry: a deadline before it is void, a later one holds.
-- One step a page: record, counts and queue agree. Succeeded items are never touched, so nothing is bought again.
-- @include base
-- @include orders
-- @include states

if ARGS.letter and #redis.call('XRANGE', DEAD, ARGS.letter, ARGS.letter) == 0 then return { 'gone', -1, 0 } end
local uids, next_member = named_items()
if not uids then return { 'unknown', -1, 0 } end
local items = load_items(uids)

local function retry(item)
  if item.group ~= '' then
    redis.call('HDEL', group_key(item.group), 'cancel')
    reopen_group(item.group)
  end
  redis.call('PERSIST', item.key)
  redis.call('HDEL', item.key, 'finished_us', 'cancel', 'unknowns')
  -- A task that is still good is polled again; a cancelled item has only such a task. Any other item begins anew.
  local keeps_task = item.state == 'cancelled' or is_resumable(item.error)
  requeue(item, 'retry_order', NOW, { attempts = 0, crashes = 0, throttles = 0, waived_us = NOW_US, error = '', intent_us = '',
    receipt = keeps_task and item.receipt or '',
    -- An expiry in the past would end it at once, against the order.
    expires_us = is_past(item.expires_us) and '' or item.expires_us or '' }, 'job.queued')
end

local function is_newer(us) return ARGS.since_us and number(us) > ARGS.since_us end
local function stays(item) return is_newer(item.started_us) or is_newer(item.finished_us) end

local queued = 0
for _, item in ipairs(items) do
  if MEANT[item.state] and next_state('retry_order', item.state) and not stays(item) then
    retry(item)
    queued = queued + 1
  end
end
if ARGS.letter then redis.call('XDEL', DEAD, ARGS.letter) end
conclude()
return { 'ok', next_member, queued }
