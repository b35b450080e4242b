-- Send the original of a dead letter to the jobs stream again, and take the dead letter off.
-- KEYS  1 prefix
-- ARGS  letter (the dead letter's entry), own_fields (how many of its last fields are not the original's)
-- Returns  the new entry's id, or '' when the dead letter is not there any more
-- One step, so that of two people who retry the same one, or of one who is interrupted and begins again, only one sends it.
-- @include base
local found = redis.call('XRANGE', DEAD, ARGS.letter, ARGS.letter)[1]
if not found then return '' end
local fields = found[2]
local sent = redis.call('XADD', JOBS, '*', unpack(fields, 1, #fields - 2 * ARGS.own_fields))
redis.call('XDEL', DEAD, ARGS.letter)
return sent
