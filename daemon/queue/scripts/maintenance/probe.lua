-- Test that Redis takes our writes, with one small key that expires.
-- KEYS  1 prefix
-- ARGS  none
-- Returns  1
-- One step like all other scripts, so the same faults stop it: no memory left, a read-only replica, an ACL, keys without a
-- common slot.
-- @include base
redis.call('SET', P .. ':probe', NOW_US, 'PX', 60000)
return 1
