-- End an entry that will not become work: write its dead letter and its event, and remove it from the stream.
-- KEYS  1 prefix
-- ARGS  entry, event (job.rejected | job.duplicate), head, batch (or ''), extra (the inside of a JSON object),
--       reason and error (JSON) of the dead letter; without a reason there is no dead letter
-- ARGV  2.. the original's field/value pairs to keep, which may be binary
-- Returns  1, or 0 when another replica had removed the entry before
-- One step, so an entry leaves exactly one dead letter, even if two replicas read it.
-- @include base
-- @include events
-- @include entries

if #redis.call('XRANGE', JOBS, ARGS.entry, ARGS.entry) == 0 then
  end_entries(ARGS.entry)
  return 0
end
if ARGS.reason then bury(ARGS.reason, ARGS.error, 0, ARGS.head, { unpack(ARGV, 2) }) end
emit(ARGS.event, ARGS, ARGS.extra)
-- This comes last: Redis does not roll back a failed script, so until here the entry can still be read again.
end_entries(ARGS.entry)
return 1
