-- Events leave in the script that changes the state, so no reader sees one without the other.
-- The owner of an event is an item or a group; its `head` is the JSON of its identity without the braces. `extra` has the
-- same form.
-- @include base
-- @include outbox
local EVENTS = P .. ':events'
must_suit('XLEN', EVENTS, DEAD)
local NOW_ISO = iso(NOW)
local TIME_FIELD = ',"time":"' .. NOW_ISO .. '"'

local function publish(kind, data) return redis.call('XADD', EVENTS, 'MAXLEN', '~', 100000, '*', 'type', kind, 'data', data) end

-- An entry of a batch's stream has the id that it has in the stream of all events, so a reader may go on in the other one.
-- A stream that is ahead of that id gives its own: the clock went back, and the stream of all events began anew. A batch
-- chooses the end of its stream's name, so that key may be somebody's. The batch goes on without a stream then, and its
-- record counts what the stream lacks (`unpublished`).
-- Returns whether the batch's stream has the event.
local AHEAD, CLOSED = { 'equal or smaller', 'WRONGTYPE' }, { 'exhausted', 'WRONGTYPE' }
local function publish_in_batch(kind, owner, event, data)
  local function add(marks, id)
    return unless(marks, 'XADD', EVENTS .. ':' .. owner.batch, 'MAXLEN', '~', 200000, id, 'type', kind, 'data', data)
  end
  if add(AHEAD, event) or add(CLOSED, '*') then return true end
  local key = owner.tenant and group_key(owner.tenant .. '/' .. owner.batch)
  if key and redis.call('HEXISTS', key, 'state') == 1 then redis.call('HINCRBY', key, 'unpublished', 1) end
  return false
end

-- Returns whether every stream of the event has it.
local function emit(kind, owner, extra)
  local data = '{' .. owner.head .. TIME_FIELD .. (extra and ',' .. extra or '') .. '}'
  local event = publish(kind, data)
  local is_whole = owner.batch == '' or publish_in_batch(kind, owner, event, data)
  call_back(kind, owner, event, data)
  return is_whole
end

-- The inside of a JSON object, to be joined with others.
local function inside(json) return string.sub(json, 2, -2) end

-- One dead letter: first the original's fields, then ours. A reader that makes a mapping of them keeps ours.
local function bury(reason, err, attempts, head, original)
  local entry = { 'XADD', DEAD, 'MAXLEN', '~', 100000, '*' }
  for _, value in ipairs(original) do entry[#entry + 1] = value end
  local ours = { 'reason', reason, 'error', err, 'attempts', attempts, 'at', NOW_ISO, 'ids', '{' .. head .. '}' }
  for _, value in ipairs(ours) do entry[#entry + 1] = value end
  redis.call(unpack(entry))
end
