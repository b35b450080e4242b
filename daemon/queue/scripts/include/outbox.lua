-- The outbox: an event that its job or its batch wants to be called back for becomes a message in the very step that
-- publishes it, so neither exists without the other. The wish is part of the record (callback_*) and ends with it;
-- a message has a key of its own, due in P:outbox, and lives until it is delivered or given up.
-- Longer than the longest pause between two tries, which is 10 h; each try begins it anew.
local MESSAGE_TTL_MS = 20 * 3600 * 1000
local DEFAULT_EVENTS = { batch = ',batch.finished,', job = ',job.succeeded,job.failed,job.cancelled,job.expired,' }
local NEVER = { ['job.rejected'] = true, ['job.duplicate'] = true }

-- Set with the first callback of the installation, for good: where nobody has ever asked for one, no event looks for it.
local CALLED_FOR = P .. ':callbacks'
local called_for = nil

local function message_key(id) return P .. ':message:' .. id end

-- Take the callback out of what a producer sent (JSON) into the record under `key`. Inside of a JSON text quotes are
-- escaped, so a prompt that speaks of callbacks is not decoded.
local function keep_callback(key, kind, json)
  if not string.find(json, '"callback":', 1, true) then return end
  local callback = cjson.decode(json).callback
  if type(callback) ~= 'table' then return end
  local events = DEFAULT_EVENTS[kind]
  if type(callback.events) == 'table' then events = ',' .. table.concat(callback.events, ',') .. ',' end
  local secret = type(callback.secret) == 'string' and callback.secret or ''
  redis.call('HSET', key, 'callback_events', events, 'callback_url', callback.url, 'callback_secret', secret)
  redis.call('SET', CALLED_FOR, 1)
  called_for = true
end

local rung = false
local function post(record, kind, event, head, data)
  local wish = redis.call('HMGET', record, 'callback_events', 'callback_url', 'callback_secret')
  if not wish[1] or not string.find(wish[1], ',' .. kind .. ',', 1, true) then return end
  -- An event's place in the stream is its own; the record's hash tells apart who shares a receiver.
  local id = 'evt_' .. event .. '_' .. string.sub(redis.sha1hex(record), 1, 12)
  redis.call('HSET', message_key(id), 'record', record, 'url', wish[2], 'secret', wish[3], 'head', head,
    'event', kind, 'body', '{"type":"' .. kind .. '","data":' .. data .. '}', 'attempts', 0, 'taken', '')
  redis.call('PEXPIRE', message_key(id), MESSAGE_TTL_MS)
  redis.call('ZADD', P .. ':outbox', NOW_US, id)
  if not rung then redis.call('PUBLISH', P .. ':bell', 'callback') end
  rung = true
end

-- For every event of a job or a batch: `event` is its id in the stream of all events.
local function call_back(kind, batch, event, head, data)
  if NEVER[kind] then return end
  if called_for == nil then called_for = redis.call('EXISTS', CALLED_FOR) == 1 end
  if not called_for then return end
  local tenant, item = string.match(head, '^"tenant":"([^"]*)","job":"[^"]*","item":"([^"]*)"')
  if not tenant then return end
  if string.sub(kind, 1, 4) == 'job.' then
    post(item_key(tenant .. '/' .. batch .. '/' .. item), kind, event, head, data)
  end
  if batch ~= '' then post(group_key(tenant .. '/' .. batch), kind, event, head, data) end
end
