-- Send the original of a dead letter to the jobs stream again, and remove the dead letter.
-- KEYS  1 prefix
-- ARGS  letter (the dead letter's entry), own_fields (how many of its last fields do not belong to the original)
-- Returns  the new entry's id, or '' when the dead letter has been removed before
-- One step, so that the original is sent once, even if two people retry it or one person does so twice.
-- @include base
local found = redis.call('XRANGE', DEAD, ARGS.letter, ARGS.letter)[1]
if not found then return '' end
local fields = found[2]
local sent = redis.call('XADD', JOBS, '*', unpack(fields, 1, #fields - 2 * ARGS.own_fields))
redis.call('XDEL', DEAD, ARGS.letter)
return sent
