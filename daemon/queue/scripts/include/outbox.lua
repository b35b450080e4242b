-- The outbox: if a job or batch has a callback for an event, the step that publishes the event also writes a message, so
-- neither exists without the other. The callback's settings are part of the record (callback_*) and end with it. A message
-- has its own key, is due in P:outbox, and lives until it is delivered or given up.
-- @include base
local OUTBOX = P .. ':outbox'
must_suit('ZCARD', OUTBOX)
-- Longer than the longest wait between two tries, which is 10 h; each try restarts it.
local MESSAGE_TTL_MS = 20 * 3600 * 1000
local DEFAULT_EVENTS = { batch = ',batch.finished,', job = ',job.succeeded,job.failed,job.cancelled,job.expired,' }
local NEVER = { ['job.rejected'] = true, ['job.duplicate'] = true }

-- The first callback of the installation sets this key, which never ends. Without it no event looks for a callback.
local HAS_CALLBACKS = P .. ':callbacks'
local has_callbacks = nil

local function message_key(id) return P .. ':message:' .. id end

-- Copy the callback from a producer's JSON into the record of its owner. JSON escapes quotes inside a text, so a prompt
-- that contains the word is not decoded.
local function keep_callback(owner, kind, json)
  if not string.find(json, '"callback":', 1, true) then return end
  local callback = cjson.decode(json).callback
  if type(callback) ~= 'table' then return end
  local events = DEFAULT_EVENTS[kind]
  if type(callback.events) == 'table' then events = ',' .. table.concat(callback.events, ',') .. ',' end
  local secret = type(callback.secret) == 'string' and callback.secret or ''
  update(owner, { callback_events = events, callback_url = callback.url, callback_secret = secret })
  redis.call('SET', HAS_CALLBACKS, 1)
  has_callbacks = true
end

local function offer_message(id)
  redis.call('PEXPIRE', message_key(id), MESSAGE_TTL_MS)
  redis.call('ZADD', OUTBOX, NOW_US, id)
end

local rung = false
local function post(record, kind, event, head, data)
  local wish = read_fields(record, 'callback_events', 'callback_url', 'callback_secret')
  if not wish.callback_events or not string.find(wish.callback_events, ',' .. kind .. ',', 1, true) then return end
  -- One event may be posted for two owners with the same receiver; the record's hash keeps the messages apart.
  local id = 'evt_' .. event .. '_' .. string.sub(redis.sha1hex(record), 1, 12)
  redis.call('HSET', message_key(id), 'record', record, 'url', wish.callback_url, 'secret', wish.callback_secret,
    'head', head, 'event', kind, 'body', '{"type":"' .. kind .. '","data":' .. data .. '}', 'attempts', 0, 'taken', '')
  offer_message(id)
  if not rung then redis.call('PUBLISH', BELL, 'callback') end
  rung = true
end

-- Called for every event of an item or a group; `event` is its id in the stream of all events.
local function call_back(kind, owner, event, data)
  if NEVER[kind] then return end
  if has_callbacks == nil then has_callbacks = redis.call('EXISTS', HAS_CALLBACKS) == 1 end
  if not has_callbacks then return end
  if owner.uid then post(owner.key, kind, event, owner.head, data) end
  if owner.batch ~= '' then post(group_key(owner.tenant .. '/' .. owner.batch), kind, event, owner.head, data) end
end
