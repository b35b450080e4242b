-- Accept items: write their records, queue them, publish their events, and remove their entries from the jobs stream.
-- KEYS  1 prefix
-- ARGV  from 2 on: the spec (JSON) of each item, as it is
-- ARGS  items, each with uid, gid, part, route, lane, head, fingerprint, not_before_us, expires_us,
--       max_attempts, entry (to remove, or ''), cache (`use` or `refresh`, a space and the fingerprint of its pixels; or '');
--       gid and part are '' for a job of its own
--       part_end: gid, part and entry of the part whose last item this call holds
--       from: the entry of the items, for those without `entry`
--       cap: how many items of a tenant may wait, 0 for no cap
-- Returns  one of queued | duplicate | conflict | resumed | full for each item. `full` is for an item without a group whose
--          tenant has reached its cap: nothing is written for it, and its entry stays
-- One step, because a crash between the record and the acknowledgement must not make a second picture: an entry that is
-- read again finds its record.
-- @include base
-- @include states
-- @include journal
-- @include entries

-- Take an item out of its group's counts because it is not new work. This happens once, even if an interrupted part is
-- read twice.
local function withdraw(item)
  local key = group_key(item.group)
  if redis.call('HSETNX', key, 'withdrawn:' .. item.part .. ':' .. item.uid, 1) == 0 then return end
  for _, name in ipairs({ 'total', 'queued', 'open' }) do redis.call('HINCRBY', key, name, -1) end
  count(waiting, item.tenant, -1)
end

local function refuse(item, is_same)
  if item.group ~= '' then withdraw(item) end
  if is_same then
    emit('job.duplicate', item)
    return 'duplicate'
  end
  emit('job.rejected', item, '"code":"id_conflict","message":"This id is taken by a job with other content, whose result ' ..
    'stands; send the changed job under a new id."')
  return 'conflict'
end

-- Note the queues in which a batch may park items, for the step that frees one of its places or ends its pause.
local function note_place(group, route, queue)
  local places, place = redis.call('HGET', group, 'places'), route .. '|' .. queue
  if places and string.find(',' .. places .. ',', ',' .. place .. ',', 1, true) then return end
  redis.call('HSET', group, 'places', places and places .. ',' .. place or place)
end

-- Returns whether the group was cancelled before this member came.
local function join_group(item, new)
  local key, members = group_key(item.group), members_key(item.group)
  redis.call('ZADD', members, 'NX', redis.call('ZCARD', members), item.uid)
  if redis.call('HEXISTS', key, 'cancel') == 1 then return true end
  -- The batch's estimate must not end before its last item may start.
  local latest_us = tonumber(redis.call('HGET', key, 'latest_us') or '0')
  if (new.not_before_us or 0) > latest_us then redis.call('HSET', key, 'latest_us', int(new.not_before_us)) end
  if item.batch ~= '' then
    note_place(key, item.route, item.lane)
    if item.cache then note_place(key, item.route, 'cached') end
  end
  return false
end

-- When the work was sent, by the id of its entry. A producer may have chosen another id.
local function sent_us(new)
  local ms = tonumber(string.match(new.entry ~= '' and new.entry or ARGS.from or '', '^(%d+)-'))
  return ms and int(math.min(ms * 1000, NOW)) or NOW_US
end

local function accept(new)
  local item = load_item(new.uid)
  local is_known = item.state ~= nil
  if is_known and new.part ~= '' and item.part == new.part and item.fp == new.fingerprint then return 'resumed' end
  local is_same = item.fp == new.fingerprint and not item.deleting
  item.group, item.part, item.head = new.gid, new.part, new.head
  if is_known then return refuse(item, is_same) end
  if new.gid == '' then
    if redis.call('EXISTS', group_key(new.uid)) == 1 or is_picture(new.uid) then return refuse(item, false) end
    if is_full(item.tenant, 1) then return 'full' end
    count(waiting, item.tenant, 1)
    add_to_index(new.uid)
  end
  local expires_us = new.expires_us and int(new.expires_us)
  update(item, { state = next_state('accepted', 'new'), route = new.route, lane = new.lane, place = 'queue', group = new.gid,
    part = new.part, head = new.head, spec = new.spec, fp = new.fingerprint, accepted_us = NOW_US, since_us = NOW_US,
    sent_us = sent_us(new), max_attempts = new.max_attempts, expires_us = expires_us })  -- an absent count is 0
  keep_callback(item, 'job', new.spec)
  -- The name of its flight begins with the tenant, so tenants never share pictures.
  local mode, pixels = string.match(new.cache, '^(%a+) (%x+)$')
  if mode then update(item, { cache = mode, flight = item.tenant .. '/' .. pixels }) end
  emit('job.queued', item)
  count_depth(item, 'queued', 1)
  if new.gid ~= '' and join_group(item, new) then
    finish_item(item, 'cancel_order', {})
    return 'queued'
  end
  redis.call('ZADD', P .. ':waiting:' .. item.route, NOW_US, item.uid)
  if expires_us then redis.call('ZADD', EXPIRING, expires_us, item.uid) end
  if (new.not_before_us or 0) > NOW then
    redis.call('ZADD', DELAYED, int(new.not_before_us), item.uid)
  else
    queue_up(item, false)
  end
  return 'queued'
end

must_suit('XLEN', JOBS)
must_suit('ZCARD', INDEX)
for _, new in ipairs(ARGS.items) do must_suit_item({ route = new.route, lane = new.lane, cache = new.cache ~= '' }) end

local results, done = {}, {}
for i, new in ipairs(ARGS.items) do
  new.spec = ARGV[i + 1]
  results[i] = accept(new)
  if new.entry ~= '' and results[i] ~= 'full' then done[#done + 1] = new.entry end
end

local closing = ARGS.part_end
if closing then
  local key = group_key(closing.gid)
  if redis.call('HSETNX', key, 'done:' .. closing.part, 1) == 1 then
    -- A cancelled batch waits for no part, so it has no count of missing parts.
    local is_cancelled = redis.call('HEXISTS', key, 'cancel') == 1
    local parts_left = is_cancelled and 0 or redis.call('HINCRBY', key, 'parts_left', -1)
    if parts_left <= 0 and redis.call('HGET', key, 'open') == '0' then finish_group(closing.gid) end
  end
  strike(closing.gid .. '/' .. closing.part)
  if closing.entry ~= '' then done[#done + 1] = closing.entry end
end
if #done > 0 then end_entries(unpack(done)) end
conclude()
return results
