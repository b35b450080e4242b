-- What an item in the lane `cached` is to be given: somebody else's picture, or the refusal that it waited for.
-- KEYS  1 prefix
-- ARGV  1 uid
-- Returns  { picture or '', refusal or '', 1 if it waited for it }; the picture is JSON, { from, result } of who made it
-- One step, because the item's record names the keys that are read. Nothing is changed.
-- @include base

local f = redis.call('HMGET', item_key(ARGV[1]), 'cache', 'joined')
local mode, name = flight_of(ARGV[1], f[1])
if not mode then return { '', '', 0 } end
return { redis.call('GET', picture_key(name)) or '', redis.call('GET', refusal_key(name)) or '', tonumber(f[2] or '0') }
