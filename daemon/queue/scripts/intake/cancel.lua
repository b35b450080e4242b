-- Cancel one item, or one page of a group's members. Waiting items end now; running items get a request to stop.
-- KEYS  1 prefix
-- ARGS  see include/orders.lua; states of queued, throttled, retry_wait, running, held
-- Returns  { ok | unknown, next member or -1, cancelled, requested to stop }
-- One step a page. A batch that is still being accepted is marked, so later members end as well.
-- A cancelled item's queue entry stays as a tombstone: XDEL of an undelivered entry would lose the group's lag.
-- @include base
-- @include orders
-- @include states

local uids, next_member = named_items()
if not uids then return { 'unknown', -1, 0, 0 } end
local items = load_items(uids)

if ARGS.kind == 'group' and MEANT.queued and redis.call('HGET', group_key(ARGS.name), 'state') == 'running' then
  -- The batch no longer waits for its missing parts.
  redis.call('HSET', group_key(ARGS.name), 'cancel', NOW_US, 'parts_left', 0)
  if redis.call('HGET', group_key(ARGS.name), 'open') == '0' then finish_group(ARGS.name) end
end

local cancelled, requested = 0, 0
for _, item in ipairs(items) do
  if MEANT[item.state] then
    if item.state == 'held' and not is_resumable(item.error) then update(item, { receipt = '' }) end
    if finish_idle(item, 'cancel_order') then
      cancelled = cancelled + 1
    elseif item.state == 'running' then
      update(item, { cancel = NOW_US })
      redis.call('PUBLISH', BELL, 'cancel ' .. item.uid)
      requested = requested + 1
    end
  end
end
conclude()
return { 'ok', next_member, cancelled, requested }
