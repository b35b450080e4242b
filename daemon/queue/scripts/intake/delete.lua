-- Delete the records of work that has ended: a job of one picture, or a group (a batch, a job of several pictures) by pages.
-- KEYS  1 prefix
-- ARGS  kind (group | item), name (uid or gid), page: members, or entries of the batch's events, a call
--       marks: only note that the deletion has begun
-- Returns  not_ended | unknown | more (call again) | gone
-- A marked record takes no order and no late part, and no list has it, so its pictures can go first. The record leaves
-- last: it alone knows their names, and a deletion that is interrupted can be repeated.
-- One step a page, since the state is checked in the step that marks. Tombstones of these items may remain in queues, and a
-- claim steps over them.
-- @include base
-- @include states
-- @include journal

local function forget_item(uid)
  local item = load_item(uid)
  if item.flight then
    -- The cache may offer this item's picture; copies of it are pictures of other items and stay.
    local key = flight_key('picture', item.flight)
    if string.find(redis.call('GET', key) or '', '"from":"' .. uid .. '"', 1, true) then redis.call('DEL', key) end
    redis.call('ZREM', flight_key('flight', item.flight), uid)
  end
  redis.call('DEL', item.key)
end

-- Another tenant's batch of that name shares the stream. Returns whether there is another page.
local function forget_events(group)
  local stream = EVENTS .. ':' .. group.name
  local rows = redis.pcall('XRANGE', stream, group.read_to and '(' .. group.read_to or '-', '+', 'COUNT', ARGS.page)
  if rows.err or group.kind ~= 'batch' then return false end  -- of another type: it is somebody's
  local mine = '"tenant":"' .. group.tenant .. '"'
  for _, row in ipairs(rows) do
    if string.find(by_name(row[2]).data or '', mine, 1, true) then redis.call('XDEL', stream, row[1]) end
  end
  if #rows == ARGS.page then
    update(group, { read_to = rows[#rows][1] })
    return true
  end
  if redis.call('XLEN', stream) == 0 then redis.call('DEL', stream) end
  return false
end

local function delete_group()
  local group = load_group(ARGS.name)
  if not group.state then return 'unknown' end
  if group.state == 'running' then return 'not_ended' end
  update(group, { deleting = NOW_US })
  if ARGS.marks then return 'more' end
  local uids = redis.call('ZRANGE', members_key(group.gid), 0, ARGS.page - 1)
  for _, uid in ipairs(uids) do
    forget_item(uid)
    redis.call('ZREM', members_key(group.gid), uid)
  end
  if #uids == ARGS.page or forget_events(group) then return 'more' end
  for part = 1, tonumber(group.parts) do strike(group.gid .. '/' .. int(part)) end
  redis.call('ZREM', CLOSING, group.gid)
  redis.call('DEL', members_key(group.gid), group.key)
  return 'gone'
end

local function delete_item()
  local item = load_item(ARGS.name)
  if not item.state or item.group ~= '' then return 'unknown' end
  if not FINAL[item.state] then return 'not_ended' end
  if ARGS.marks then
    update(item, { deleting = NOW_US })
    return 'more'
  end
  forget_item(item.uid)
  return 'gone'
end

local result = ARGS.kind == 'group' and delete_group() or ARGS.kind == 'item' and delete_item()
if result == 'more' or result == 'gone' then redis.call('ZREM', P .. ':index', ARGS.name) end
conclude()
return result
