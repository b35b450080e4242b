-- Moves of items between states, each with its counts and its event. A script that includes this ends with conclude().
-- @include base
-- @include events
-- @include counts
-- @include groups
-- @include flight
-- @include transitions

local INDEX = P .. ':index'
must_suit('ZCARD', EXPIRING, DELAYED, FLIGHTS)

-- Move an item: its record, its event (if any), its counts. Returns its next state. If its state does not allow the cause,
-- returns nil and changes nothing. In a settle, the record
-- also notes its epoch, outcome and next state (`settled`), for a repeated call, and counts the run's call (`charged`).
local function move(item, cause, fields, event, extra)
  local from, to = item.state, next_state(cause, item.state)
  if not to then return nil end
  fields.state = to
  if item.settling then fields.settled = item.settling .. ' ' .. to end
  if item.charged then
    local calls = 'calls_' .. item.charged
    fields[calls] = int(number(item[calls]) + 1)
  end
  update(item, fields)
  if event then emit(event, item, extra) end
  count_depth(item, from, -1)
  count_depth(item, to, 1)
  if WAITING[from] and not WAITING[to] then
    redis.call('ZREM', P .. ':waiting:' .. item.route, item.uid)
    count(waiting, item.tenant, -1)
  elseif WAITING[to] and not WAITING[from] then
    redis.call('ZADD', P .. ':waiting:' .. item.route, NOW_US, item.uid)
    count(waiting, item.tenant, 1)
  end
  update_flight(item)
  if item.group ~= '' then count_member(item.group, from, to) end
  return to
end

-- End an item; returns the same as `move`. `extra` is the inside of a JSON object for the event.
local function finish_item(item, cause, fields, extra)
  local state = next_state(cause, item.state)
  if not state then return nil end
  -- Members live as long as their group; the janitor starts their time to live when the group has ended.
  if item.group == '' then redis.call('PEXPIRE', item.key, retention_ms(state == 'succeeded')) end
  -- The replica that runs an item counts its end itself.
  if item.state ~= 'running' then count(ended, item.route .. '|' .. state, 1) end
  fields.finished_us = NOW_US
  return move(item, cause, fields, 'job.' .. state, extra)
end

-- End an item that no worker runs. Its queue entry stays as a tombstone: the claim steps over it, or an earlier retry uses
-- it again.
local function finish_idle(item, cause)
  if not next_state(cause, item.state) then return nil end
  redis.call('ZREM', EXPIRING, item.uid)
  local was_delayed = redis.call('ZREM', DELAYED, item.uid) == 1
  local stands = WAITING[item.state] and not was_delayed and item.place ~= 'joined'
  return finish_item(item, cause, stands and { tombstone = 1 } or {})
end

-- Send an item back to its queue, before the others of its source, now or when it is due. Returns the same as `move`.
local function requeue(item, cause, due_us, fields, event, extra)
  fields.since_us, fields.entry, fields.worker = NOW_US, '', ''
  local state = move(item, cause, fields, event, extra)
  if not state then return nil end
  if (item.expires_us or '') ~= '' then redis.call('ZADD', EXPIRING, item.expires_us, item.uid) end
  if due_us > NOW then redis.call('ZADD', DELAYED, int(due_us), item.uid) else queue_up(item, true) end
  return state
end

-- An item as its owner gets it: the values of ARGS.fields, in that order; null if absent.
local function fields_of(item)
  local values = {}
  for i, name in ipairs(ARGS.fields) do values[i] = item[name] or false end
  return values
end

-- The index lists the newest work for people; older work is still found by its id.
local has_new_work = false
local function add_to_index(name)
  redis.call('ZADD', INDEX, NOW_US, name)
  has_new_work = true
end

local function conclude()
  if has_new_work then redis.call('ZREMRANGEBYRANK', INDEX, 0, -10001) end
  write_counts()
  ring_bell()
end
