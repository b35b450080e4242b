-- Take items of a route that several accounts serve: one with spares (`fallback`), or one with equals (`any`).
-- KEYS, ARGV, ARGS, Returns  those of claim.lua, and these ARGS:
--       via: the name of the account's own route, which serves the route's queue; for the route itself, its own name
--       accounts: all such names of the route;  down: those that serve nothing now
--       spare: `via` serves because others are down, so it takes no item that may not go over
--       differs: another provider or model than the route's, so its pictures are no answer to identical items
-- An item with a call is run by the account of that call. While that is down, the item waits aside for it, in a list that
-- take_back.lua empties. So does an item that must not go over: `fallback` is false, the provider of the spare cannot make
-- it (`unfit:NAME`), or an earlier call may be paid.
-- A claim takes one item back for each account that serves. Another replica may believe that this account is down, and would
-- otherwise set the item aside again before it is claimed here.
-- One step, because an item is either in its queue, or aside, or running, never in two of these or in none.
-- @include base
-- @include ring
local ASIDES = P .. ':asides'
must_suit('HLEN', ASIDES)
for _, name in ipairs(ARGS.accounts) do must_suit('LLEN', (aside_key(ARGS.route, name))) end

local DOWN = {}
for _, name in ipairs(ARGS.down) do DOWN[name] = true end

-- @include states
local function take_one_back(account)
  local key, name = aside_key(ARGS.route, account)
  local uid = redis.call('LINDEX', key, 0)
  if not uid then return end
  local item = load_item(uid)
  must_suit_item(item)
  if WAITING[item.state] and item.place == 'queue' and not redis.call('ZSCORE', DELAYED, uid) then queue_up(item, true) end
  redis.call('LPOP', key)
  if redis.call('EXISTS', key) == 0 then redis.call('HDEL', ASIDES, name) end
  -- The claim below may return before it writes these.
  conclude()
  depth, waiting, ended, woken = {}, {}, {}, {}
end
for _, name in ipairs(ARGS.accounts) do
  if not DOWN[name] then take_one_back(name) end
end
-- @include claiming

-- The account of an item's task. A receipt without a name is that of the route itself.
local function owner_of(item)
  local receipt = (item.receipt or '') ~= '' and item.receipt or item.late_receipt or ''
  return string.match(receipt, '"route":"([^"]+)"') or route
end

local function may_go_over(item)
  if item['unfit:' .. ARGS.via] or number(item.calls_yes) + number(item.calls_maybe) > 0 then return false end
  local ok, spec = pcall(cjson.decode, item.spec)
  return ok and spec.fallback ~= false
end

-- The account that an item waits for; nil if it may start.
local function waits_for(item)
  if has_call(item) then return DOWN[owner_of(item)] and owner_of(item) or nil end
  if ARGS.spare and not may_go_over(item) then return route end
end

-- The item no longer takes part in its flight: nobody gets a copy of what another model makes.
local function leave_flight(item)
  if not item.flight or has_task(item) then return end
  redis.call('ZREM', flight_key('flight', item.flight), item.uid)
  redis.call('HDEL', item.key, 'cache', 'flight')
  update(item, { left_cache = item.cache, left_flight = item.flight })
  item.cache, item.flight = nil, nil
end

-- It takes part again: it waits, so the other model has made nothing.
local function rejoin_flight(item)
  if not item.left_flight or has_task(item) or not WAITING[item.state] then return end
  update(item, { cache = item.left_cache, flight = item.left_flight })
  redis.call('HDEL', item.key, 'left_cache', 'left_flight')
end

local starts_here = starts
starts = function(item, queue, is_paused)
  rejoin_flight(item)
  if not starts_here(item, queue, is_paused) then return false end
  local account = waits_for(item)
  if account then
    local key, name = aside_key(route, account)
    redis.call('RPUSH', key, item.uid)
    redis.call('HSET', ASIDES, name, 1)
  end
  return not account
end

local start_here = start
start = function(item, entry)
  local via = has_task(item) and owner_of(item) or ARGS.via
  update(item, { via = via })
  if via ~= route then
    if ARGS.differs then leave_flight(item) end
    item.head = item.head .. ',"route":"' .. via .. '","instead_of":"' .. route .. '"'  -- of the event, not of the record
  end
  start_here(item, entry)
end
-- @include claim_all
