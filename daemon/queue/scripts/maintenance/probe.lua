-- Show that Redis takes our writes: one small key, which ends by itself.
-- KEYS  1 prefix
-- ARGS  none
-- Returns  1
-- One step as all others are, so that what would stop them (no memory left, a replica, an ACL, keys without a common slot)
-- stops this one, too.
-- @include base
redis.call('SET', P .. ':probe', NOW_US, 'PX', 60000)
return 1
