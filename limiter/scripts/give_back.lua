-- Undo a grant whose call was not sent.
--
-- KEYS   1 clock   2 the request's record   then L pairs: leases, the line of holders that wait for them
--        rest: the books of its rates, of every kind
-- ARGV   1 test clock (µs or '')   2 grant id   3 request id and holder   4 channel of the doorbell   5 L
--        then the weight in each of the leases   rest: the cost in each of the books
-- Returns 1 if anything was undone, 0 if there was nothing left to undo (so it may be repeated).
--
-- The bell rings for the holders whose turn it is, as in release.lua. A holder that then finds no work leaves the line, so
-- the ringing ends.
-- The record names the charged field of slices, days and windows by the clock; without it they do not come back.
-- Why atomic: a half-undone charge would let a call start under some of its limits only.
-- @include clock
-- @include leases
-- @include undo
local grant, owner, leases = ARGV[2], ARGV[3], tonumber(ARGV[5])
local undone, names = false, {}

local record = redis.call('GET', KEYS[2])
if record and string.match(record, '^%S+ (%S+)') == grant then
  undone = redis.call('DEL', KEYS[2]) == 1
else
  record = nil
end

for number = 1, leases do
  local key, line = KEYS[2 * number + 1], KEYS[2 * number + 2]
  local freed = lease_end(key, grant, owner, tonumber(ARGV[number + 5]))
  if freed > 0 then
    undone = true
    local now = clock_read(redis.call('GET', KEYS[1]), ARGV[1], '', '').now
    line_call(key, line, freed, true, now, '', names)
  end
end
for i = 2 * leases + 3, #KEYS do
  undone = undo_charge(KEYS[i], record, grant, tonumber(ARGV[i + 3 - leases])) or undone
end
line_ring(ARGV[4], names)
return undone and 1 or 0
