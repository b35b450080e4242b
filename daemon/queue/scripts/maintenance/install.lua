-- Write a replica's settings of the installation: the schema of its records, how long they are kept, its routes and quotas.
-- KEYS  1 prefix
-- ARGS  schema, records_us, failed_us, configured (JSON), starts: this is the replica's first write, so it replaces another's
-- Returns  { the schema in force, the present life of the server }; a newer schema than ours was not overwritten
-- One step, so that no replica overwrites a newer schema that came between its look and its write. It also writes a key with
-- another name, to show that Redis takes our writes: on a cluster, keys without a common slot stop one of the two writes.
-- Every replica calls it every two seconds, so it also notes when another life of the server has begun.
-- @include base
-- @include life
local installation = P .. ':installation'

-- Begin the count of ended entries (include/entries.lua) where it is missing, or where the stream has begun anew without it.
local function count_entries()
  local reply = redis.pcall('XINFO', 'STREAM', JOBS)
  local stream = reply.err and {} or by_name(reply)
  local added = stream['entries-added']  -- Redis 6.2 does not know it
  if not added then return end
  local ended = tonumber(redis.call('HGET', installation, 'entries_ended'))
  if not ended or ended > added - stream.length then
    redis.call('HSET', installation, 'entries_ended', added - stream.length)
  end
end

redis.call('SET', P .. ':probe', NOW_US, 'PX', 60000)
local found = tonumber(redis.call('HGET', installation, 'schema') or '0')
if found > ARGS.schema then return { found, '' } end
redis.call('HSET', installation, 'schema', ARGS.schema)
life_began_us()
count_entries()
local write = ARGS.starts and 'HSET' or 'HSETNX'
redis.call(write, installation, 'records_us', int(ARGS.records_us))
redis.call(write, installation, 'failed_us', int(ARGS.failed_us))
redis.call(write, installation, 'configured', ARGS.configured)
return { ARGS.schema, redis.call('HGET', installation, 'life') or '' }
