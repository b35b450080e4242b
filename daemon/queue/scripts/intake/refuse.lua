-- End an entry that will not become work: its dead letter, its event, and the entry off the stream.
-- KEYS  1 prefix
-- ARGV  1 entry id  2 event kind (job.rejected|job.duplicate)  3 head  4 batch or ''  5 extra (inside of a JSON object)
--       6 dead-letter reason or '' (then none)  7 error (JSON)  8.. the original's field/value pairs to keep
-- Returns  1, or 0 when the entry had been taken off before (another replica was faster)
-- One step, so an entry leaves exactly one dead letter, whoever else reads it.
-- @include base
-- @include events

local jobs, entry = P .. ':jobs', ARGV[1]
if #redis.call('XRANGE', jobs, entry, entry) == 0 then
  redis.call('XACK', jobs, 'intake', entry)
  return 0
end
if ARGV[6] ~= '' then
  local kept = {}
  for i = 8, #ARGV do kept[#kept + 1] = ARGV[i] end
  bury(ARGV[6], ARGV[7], 0, ARGV[3], kept)
end
emit(ARGV[2], ARGV[3], ARGV[4], ARGV[5])
-- Last: a script that fails is not rolled back, and until here the entry is still there to be read again.
redis.call('XACK', jobs, 'intake', entry)
redis.call('XDEL', jobs, entry)
return 1
