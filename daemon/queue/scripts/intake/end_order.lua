-- Remove the entry of an order that has been carried out (a cancel, a retry) from the jobs stream.
-- KEYS  1 prefix
-- ARGS  entry
-- Returns  1 when it was there
-- One step, because an entry that is acknowledged and not deleted would stay in the stream for ever.
-- @include base
-- @include entries
return end_entries(ARGS.entry)
