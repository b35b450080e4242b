-- End the journal of a part that will not become work.
-- KEYS  1 prefix
-- ARGS  name of the part
-- Returns  nothing
-- One step, because a name without its data, or data without its name, would stay for ever.
-- @include base
-- @include journal
strike(ARGS.name)
