-- Publish an event of a batch that changes no state: its progress.
-- KEYS  1 prefix
-- ARGS  event, tenant, batch, head (the inside of a JSON object, the batch's identity)
-- ARGV  2 extra, the inside of a JSON object
-- Returns  1, or 0 when the batch has no stream of its own, since that key is somebody's
-- One step: the event has one id in both streams, and no other event comes between the two entries.
-- @include base
-- @include events

return emit(ARGS.event, ARGS, ARGV[2]) and 1 or 0
