-- Write what a replica brings to the installation: the schema of its records and how long they are kept.
-- KEYS  1 prefix
-- ARGS  schema, records_us, failed_us
-- Returns  the schema in force; a newer one than ours means that nothing was written
-- One step, so that no replica writes over a newer schema that came between its look and its write.
-- @include base
local installation = P .. ':installation'
local found = tonumber(redis.call('HGET', installation, 'schema') or '0')
if found > ARGS.schema then return found end
redis.call('HSET', installation, 'schema', ARGS.schema, 'records_us', int(ARGS.records_us), 'failed_us', int(ARGS.failed_us))
return ARGS.schema
