-- Take an entry off the intake stream whose order has been carried out (a cancel, a retry).
-- KEYS  1 prefix
-- ARGV  1 entry id
-- Returns  1 when it was there
-- One step: acknowledged without being deleted it would stay in the stream for good.
redis.call('XACK', KEYS[1] .. ':jobs', 'intake', ARGV[1])
return redis.call('XDEL', KEYS[1] .. ':jobs', ARGV[1])
