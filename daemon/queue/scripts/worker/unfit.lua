-- Note that the provider of a spare cannot make an item, so that claim_shared.lua leaves it to the item's own route.
-- KEYS  1 prefix
-- ARGS  uid, epoch, via: the route of the spare
-- Returns  1; 0 if the caller no longer owns the item
-- One step, because a record that has ended meanwhile must not begin anew.
-- @include base

local item = read_fields(item_key(ARGS.uid), 'state', 'epoch')
if item.state ~= 'running' or item.epoch ~= ARGS.epoch then return 0 end
redis.call('HSET', item_key(ARGS.uid), 'unfit:' .. ARGS.via, 1)
return 1
