-- Queue again the items that waited aside for accounts that serve again.
-- KEYS  1 prefix
-- ARGS  pairs: each with a route and an account;  most: items of each pair
-- Returns  how many items were queued. A list that is empty then is no longer named in P:asides.
-- One step, because an item is either aside or in its queue. The last one goes first, each before the others of its source,
-- so their order nearly stays. An item that has ended, or waits for its time, only leaves the list.
-- @include base
-- @include states

local ASIDES = P .. ':asides'
must_suit('HLEN', ASIDES)
local lists = {}
for i, pair in ipairs(ARGS.pairs) do
  local key, name = aside_key(pair[1], pair[2])
  must_suit('LLEN', key)
  lists[i] = { key = key, name = name, items = {} }
  for k, uid in ipairs(redis.call('LRANGE', key, -ARGS.most, -1)) do
    local item = load_item(uid)
    must_suit_item(item)
    lists[i].items[k] = item
  end
end

local queued = 0
for _, list in ipairs(lists) do
  for k = #list.items, 1, -1 do
    local item = list.items[k]
    if WAITING[item.state] and item.place == 'queue' and not redis.call('ZSCORE', DELAYED, item.uid) then
      queue_up(item, true)
      queued = queued + 1
    end
  end
  if #list.items > 0 then redis.call('LTRIM', list.key, 0, -#list.items - 1) end
  if redis.call('EXISTS', list.key) == 0 then redis.call('HDEL', ASIDES, list.name) end
end
conclude()
return queued
