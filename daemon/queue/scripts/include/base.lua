-- The common start of every script: its arguments, one reading of the server's clock, exact numbers, key names, records.
-- KEYS[1] is the prefix itself (on a cluster "{pixmill}"): all keys of an installation share its slot, so a script may
-- build key names from what it reads. ARGV[1] is a JSON object, the arguments by name; an absent one is nil.
local P = KEYS[1]
local ARGS = cjson.decode(ARGV[1])
local clock = redis.call('TIME')
local NOW = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- tostring() keeps 14 digits; a microsecond time has 16.
local function int(number) return string.format('%.0f', number) end
local NOW_US = int(NOW)

local function item_key(uid) return P .. ':item:' .. uid end
local function group_key(gid) return P .. ':batch:' .. gid end
local function members_key(gid) return P .. ':members:' .. gid end
local function stream_key(route, queue) return P .. ':q:' .. route .. ':' .. queue end

-- Whether a job of several pictures has this name for one of them, also before that picture is on record.
local function is_picture(uid)
  local job, k = string.match(uid, '^(.*)%.(%d)$')
  if not job then return false end
  local kind, total = unpack(redis.call('HMGET', group_key(job), 'kind', 'total'))
  return kind == 'job' and tonumber(k) < tonumber(total)
end

local JOBS, BELL, DEAD = P .. ':jobs', P .. ':bell', P .. ':dead'
local DELAYED, EXPIRING, CLOSING = P .. ':delayed', P .. ':expiring', P .. ':closing'

-- A number of a record. A text that is none counts as 0: one spoilt record must not fail the page of all.
local function number(text) return tonumber(text) or 0 end

-- Fail, before the first write, if a key has another type: Redis does not roll a failed script back. `look` is a command
-- that changes nothing and works on the right type alone.
local function must_suit(look, ...)
  for _, key in ipairs({ ... }) do
    local reply = redis.pcall(look, key)
    if type(reply) == 'table' and reply.err then error(key .. ': ' .. reply.err) end
  end
end

-- The reply of a command; nil if it failed in an expected way, which one of the `marks` in its error shows. Any other error
-- ends the script, as that of redis.call does.
local function unless(marks, ...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  for _, mark in ipairs(marks) do
    if string.find(reply.err, mark, 1, true) then return nil end
  end
  error(reply.err)
end
local WRONG_TYPE = { 'WRONGTYPE' }

-- Some fields of a hash by name; an absent field is nil.
local function read_fields(key, ...)
  local values, fields = redis.call('HMGET', key, ...), {}
  for i, name in ipairs({ ... }) do fields[name] = values[i] or nil end
  return fields
end

-- A flat list of names and values as a table.
local function by_name(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

-- Under RESP3 the server itself makes the table of a hash.
local function read_hash(key)
  redis.setresp(3)
  local fields = redis.call('HGETALL', key).map
  redis.setresp(2)
  return fields
end

-- Add an item's parts of its name to fields of its record.
-- uid = tenant/batch/name, with an empty batch for a job of its own; ids never contain a slash.
local function name_item(uid, item)
  item.uid, item.key = uid, item_key(uid)
  item.tenant, item.batch, item.name = string.match(uid, '^([^/]*)/([^/]*)/(.*)$')
  return item
end

-- An item: the fields of its record, and the parts of its name. Without a record its `state` is nil.
local function load_item(uid) return name_item(uid, read_hash(item_key(uid))) end

-- A group: a batch, or a job of several pictures, which has no `batch` in its events. Without a record its `state` is nil.
local function load_group(gid)
  local group = read_hash(group_key(gid))
  group.gid, group.key = gid, group_key(gid)
  group.tenant, group.name = string.match(gid, '^([^/]*)/(.*)$')
  group.batch = group.kind == 'batch' and group.name or ''
  return group
end

-- Write fields of an item or a group, both into its record and into the script's table.
local command = { 'HSET' }  -- one table for all calls
local function update(owner, fields)
  local last = 2
  command[2] = owner.key
  for name, value in pairs(fields) do
    owner[name] = value
    command[last + 1], command[last + 2] = name, value
    last = last + 2
  end
  redis.call(unpack(command, 1, last))
end

-- The queue of an item: its lane, or `cached`. A joined item stands in none.
local function queue_of(item) return item.place == 'queue' and item.lane or item.place end

local function is_past(us) return us ~= nil and us ~= '' and tonumber(us) <= NOW end

-- The date of a Julian day number by whole-number arithmetic (Fliegel and Van Flandern, CACM 11, 1968).
local function iso(us)
  local seconds = math.floor(us / 1000000)
  local days, rest = math.floor(seconds / 86400), seconds % 86400
  local l = days + 2440588 + 68569
  local n = math.floor(4 * l / 146097)
  l = l - math.floor((146097 * n + 3) / 4)
  local i = math.floor(4000 * (l + 1) / 1461001)
  l = l - math.floor(1461 * i / 4) + 31
  local j = math.floor(80 * l / 2447)
  local k = math.floor(j / 11)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', 100 * (n - 49) + i + k, j + 2 - 12 * k,
    l - math.floor(2447 * j / 80), math.floor(rest / 3600), math.floor(rest / 60) % 60, rest % 60,
    math.floor(us / 1000) % 1000)
end
