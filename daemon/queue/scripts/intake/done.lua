-- Take an entry off the jobs stream whose order has been carried out (a cancel, a retry).
-- KEYS  1 prefix
-- ARGS  entry
-- Returns  1 when it was there
-- One step: acknowledged without being deleted it would stay in the stream for good.
-- @include base
redis.call('XACK', JOBS, 'intake', ARGS.entry)
return redis.call('XDEL', JOBS, ARGS.entry)
