-- What every script begins with: the prefix, one reading of the server's clock, exact numbers, key names.
-- KEYS[1] is the prefix itself (on a cluster "{pixmill}"): all keys of an installation share its slot, so
-- a script may build the names that depend on what it reads.
local P = KEYS[1]
local clock = redis.call('TIME')
local NOW = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- tostring() keeps 14 digits; a microsecond time has 16.
local function int(number) return string.format('%.0f', number) end
local NOW_US = int(NOW)

local function item_key(uid) return P .. ':item:' .. uid end
local function group_key(gid) return P .. ':batch:' .. gid end
local function flight_key(name) return P .. ':flight:' .. name end
local function picture_key(name) return P .. ':picture:' .. name end
local function refusal_key(name) return P .. ':refusal:' .. name end
local function stream_key(route, lane) return P .. ':q:' .. route .. ':' .. lane end

-- The list of what came last is for people; older work is still found by its id.
local function trim_index() redis.call('ZREMRANGEBYRANK', P .. ':index', 0, -10001) end

-- uid = tenant/batch/item, with an empty batch for a job of its own; ids never contain a slash.
local function split_uid(uid) return string.match(uid, '^([^/]*)/([^/]*)/(.*)$') end

-- An item's `cache` is its mode and its fingerprint. Names begin with the tenant, so none meets another's pictures.
-- Returns nil for an item that has nothing to do with the cache.
local function flight_of(uid, cache)
  local mode, fingerprint = string.match(cache or '', '^(%a+) (%x+)$')
  if mode then return mode, split_uid(uid) .. '/' .. fingerprint end
end

-- Days to a civil date by whole-number arithmetic (Howard Hinnant, "chrono-compatible low-level date algorithms").
local function iso(us)
  local seconds = math.floor(us / 1000000)
  local millis = math.floor((us - seconds * 1000000) / 1000)
  local days = math.floor(seconds / 86400)
  local rest = seconds - days * 86400
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day,
    math.floor(rest / 3600), math.floor(rest / 60) % 60, rest % 60, millis)
end
