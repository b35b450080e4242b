-- Run again what a person asks for: members of a group, or one item, that ended without a picture or are held.
-- KEYS  1 prefix
-- ARGV  1 records' retention (us)  2 failed records' retention (us)  3 group | item  4 gid or uid
--       5 first member  6 members a page  7 states, comma between (failed,held,cancelled,expired)
--       8 for an item: the dead letter that goes with it, or ''; where it has been taken off, nothing is done
-- Returns  { state of affairs, next member or -1, queued again }; the state is ok | unknown | gone (that dead letter)
-- `waived` is the time of the retry: a deadline that has passed by then does not hold any more, a later one does.
-- One step a page: record, counts and queue agree; what succeeded is never touched, so nothing is bought again.
-- @include base
-- @include events
-- @include ring
-- @include states

local queued = 0
local meant = {}
for state in string.gmatch(ARGV[7], '[^,]+') do meant[state] = true end

local function again(uid)
  local key = item_key(uid)
  local f = redis.call('HMGET', key, 'state', 'route', 'lane', 'group', 'head', 'expires_us',
    'receipt', 'error')
  if not meant[f[1]] or not next_state('retry_order', f[1]) then return end
  -- An expiry in the past would end it at once; the person who asks for it now wants it now.
  local expires = f[6]
  if expires and expires ~= '' and tonumber(expires) <= NOW then expires = '' end
  if f[4] ~= '' then
    redis.call('HDEL', group_key(f[4]), 'cancel')
    reopen_group(f[4])
  end
  redis.call('PERSIST', key)
  redis.call('HDEL', key, 'finished_us', 'cancel', 'unknowns')
  local _, batch = split_uid(uid)
  emit('job.queued', f[5], batch, '')
  -- A task that is still good is polled again, and what is cancelled keeps no other; anything else begins anew.
  local receipt = (f[1] == 'cancelled' or is_resumable(f[8])) and f[7] or ''
  requeue(uid, { state = f[1], route = f[2], lane = f[3], group = f[4] }, 'retry_order', NOW,
    { 'attempts', 0, 'crashes', 0, 'throttles', 0, 'waived', NOW_US, 'error', '', 'receipt', receipt, 'intent_us', '', 'expires_us', expires or '' })
  queued = queued + 1
end

local id = ARGV[4]
local result
if ARGV[3] == 'item' then
  local letter = ARGV[8] or ''
  if letter ~= '' and #redis.call('XRANGE', P .. ':dead', letter, letter) == 0 then return { 'gone', -1, 0 } end
  if redis.call('EXISTS', item_key(id)) == 0 then return { 'unknown', -1, 0 } end
  again(id)
  if letter ~= '' then redis.call('XDEL', P .. ':dead', letter) end
  result = { 'ok', -1, queued }
else
  if redis.call('EXISTS', group_key(id)) == 0 then return { 'unknown', -1, 0 } end
  local first, page = tonumber(ARGV[5]), tonumber(ARGV[6])
  local members = redis.call('ZRANGE', P .. ':members:' .. id, first, first + page - 1)
  for _, uid in ipairs(members) do again(uid) end
  result = { 'ok', #members == page and first + page or -1, queued }
end
conclude()
return result
