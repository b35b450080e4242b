-- End an entry that will not become work: its dead letter, its event, and the entry off the stream.
-- KEYS  1 prefix
-- ARGS  entry, event (job.rejected | job.duplicate), head, batch (or ''), extra (the inside of a JSON object),
--       reason of the dead letter and its error (JSON), without a reason there is none
-- ARGV  2.. the original's field/value pairs to keep, which may be no text
-- Returns  1, or 0 when the entry had been taken off before (another replica was faster)
-- One step, so an entry leaves exactly one dead letter, also when two replicas read it.
-- @include base
-- @include events

if #redis.call('XRANGE', JOBS, ARGS.entry, ARGS.entry) == 0 then
  redis.call('XACK', JOBS, 'intake', ARGS.entry)
  return 0
end
if ARGS.reason then bury(ARGS.reason, ARGS.error, 0, ARGS.head, { unpack(ARGV, 2) }) end
emit(ARGS.event, ARGS, ARGS.extra)
-- Last: a script that fails is not rolled back, and until here the entry is still there to be read again.
redis.call('XACK', JOBS, 'intake', ARGS.entry)
redis.call('XDEL', JOBS, ARGS.entry)
return 1
