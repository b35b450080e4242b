-- Send the original of a dead letter to the jobs stream again, and take the dead letter off.
-- KEYS  1 prefix
-- ARGV  1 the dead letter's entry id  2 how many of its last fields are not the original's
-- Returns  the new entry's id, or '' when the dead letter is not there any more
-- One step, so that of two people who retry the same one, or of one who is interrupted and begins again, only one sends it.
local dead = KEYS[1] .. ':dead'
local found = redis.call('XRANGE', dead, ARGV[1], ARGV[1])[1]
if not found then return '' end
local fields = found[2]
local sent = redis.call('XADD', KEYS[1] .. ':jobs', '*', unpack(fields, 1, #fields - 2 * tonumber(ARGV[2])))
redis.call('XDEL', dead, ARGV[1])
return sent
