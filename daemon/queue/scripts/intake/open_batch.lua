-- Begin (or resume) the acceptance of a group: a batch, one part of a batch, or a job of several pictures.
-- KEYS  1 prefix
-- ARGS  gid, kind (batch | job), head, fingerprint (of this part), members (in this part), part and parts (1 of 1),
--       max_in_flight (none), details (JSON: metadata, callback, warnings), route (of the first member, for estimates),
--       cap: how many items of a tenant may wait, 0 for no cap
--       must_exist: the group was opened before, so one that is no longer here has been deleted
--       journal: the number of this part, if it is journaled when it is new
--       staged, mark: the numbers of later parts whose data was written before, and its mark; without a new part it goes
-- ARGV  2 the type of the journaled part's entry, a blank and its data
-- Returns  new | resume (this part was begun and not completed) | duplicate | conflict | full | gone
-- The cap admits a batch as a whole: the first part counts as if all parts had its size, and later parts of an admitted
-- batch are always admitted.
-- One step, because two replicas may read the same entry, and only one of them may find the batch new.
-- @include base
-- @include states
-- @include journal

must_suit('ZCARD', INDEX)

local part, parts, details = ARGS.part or 1, ARGS.parts or 1, ARGS.details or '{}'
local part_field = 'part:' .. part
local group = load_group(ARGS.gid)

local function open_part()
  if group.deleting or group.kind ~= ARGS.kind or tonumber(group.parts) ~= parts then return 'conflict' end
  if group[part_field] then
    if group[part_field] ~= ARGS.fingerprint then return 'conflict' end
    return group['done:' .. part] and 'duplicate' or 'resume'
  end
  -- The batch may have ended without this part, if a retry followed its cancel.
  if not group.cancel then reopen_group(group.gid) end
  for _, name in ipairs({ 'total', 'queued', 'open' }) do redis.call('HINCRBY', group.key, name, ARGS.members) end
  update(group, { [part_field] = ARGS.fingerprint })
  count(waiting, group.tenant, ARGS.members)
  return 'new'
end

-- Jobs of several pictures, their pictures and jobs of one share one set of names.
local function is_taken()
  if redis.call('EXISTS', item_key(group.gid)) == 1 or is_picture(group.gid) then return true end
  for k = 0, ARGS.members - 1 do
    local picture = group.gid .. '.' .. int(k)
    if redis.call('EXISTS', group_key(picture)) == 1 then return true end
    -- Pictures of an earlier life of this job are its own.
    local owner = redis.call('HGET', item_key(picture), 'group')
    if owner and owner ~= group.gid then return true end
  end
  return false
end

local function open_group()
  if ARGS.kind == 'job' and is_taken() then return 'conflict' end
  if is_full(group.tenant, ARGS.members * parts) then return 'full' end
  count(waiting, group.tenant, ARGS.members)
  group.batch = ARGS.kind == 'batch' and group.name or ''
  update(group, { kind = ARGS.kind, head = ARGS.head, state = GROUP_TRANSITIONS.opened.new, accepted_us = NOW_US,
    total = ARGS.members, queued = ARGS.members, open = ARGS.members, parts = parts, parts_left = parts,
    running = 0, retry_wait = 0, throttled = 0, succeeded = 0, failed = 0, cancelled = 0, expired = 0, held = 0,
    [part_field] = ARGS.fingerprint, details = details, route = ARGS.route or '' })
  keep_callback(group, ARGS.kind, details)
  if ARGS.max_in_flight then update(group, { max_in_flight = ARGS.max_in_flight, in_ring = 0 }) end
  add_to_index(group.gid)
  redis.call('ZADD', ACTIVE, NOW_US, group.gid)
  if ARGS.kind == 'batch' then
    redis.call('SADD', DIRTY, group.gid)
    emit('batch.accepted', group, '"total":' .. ARGS.members .. ',"part":' .. part .. ',"parts":' .. parts)
  end
  return 'new'
end

local is_gone = ARGS.must_exist and (not group.state or group.deleting)
local result = is_gone and 'gone' or group.state and open_part() or open_group()
local is_marked = result == 'new' and ARGS.mark and not group.mark
if is_marked then update(group, { mark = ARGS.mark }) end
for _, number in ipairs(ARGS.staged or {}) do
  local name = group.gid .. '/' .. int(number)
  if is_marked then keep_staged(name, ARGS.mark) else redis.call('DEL', marked_key(name, ARGS.mark)) end
end
if result == 'new' then
  for i, number in ipairs(ARGS.journal or {}) do journal(group.gid .. '/' .. int(number), ARGV[i + 1]) end
end
conclude()
return result
