-- Events leave in the script that changes the state, so no reader sees one without the other.
-- A head is the JSON of an item's identity without its braces; `extra` is more JSON of that kind, or ''.
-- @include outbox
local EVENTS = P .. ':events'
local TIME_FIELD = ',"time":"' .. iso(NOW) .. '"'

local function emit_data(kind, batch, data)
  local event = redis.call('XADD', EVENTS, 'MAXLEN', '~', 100000, '*', 'type', kind, 'data', data)
  if batch ~= '' then
    redis.call('XADD', EVENTS .. ':' .. batch, '*', 'type', kind, 'data', data)
  end
  return event
end

local function emit(kind, head, batch, extra)
  local tail = extra ~= '' and (',' .. extra .. '}') or '}'
  local data = '{' .. head .. TIME_FIELD .. tail
  call_back(kind, batch, emit_data(kind, batch, data), head, data)
end

-- The inside of a JSON object, to be joined with others.
local function inside(json) return string.sub(json, 2, -2) end

-- One dead letter: first the original's field/value pairs, then ours, which win where a reader makes a mapping of them.
local function bury(reason, err, attempts, head, fields)
  local entry = { 'XADD', P .. ':dead', 'MAXLEN', '~', 100000, '*' }
  for _, value in ipairs(fields) do entry[#entry + 1] = value end
  local ours = { 'reason', reason, 'error', err, 'attempts', attempts, 'at', iso(NOW), 'ids', '{' .. head .. '}' }
  for _, value in ipairs(ours) do entry[#entry + 1] = value end
  redis.call(unpack(entry))
end
