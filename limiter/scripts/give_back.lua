-- Undo a grant whose call was not sent.
--
-- KEYS   1 clock   2 the request's record   then L pairs: leases, the line of holders that wait for them
--        then Q cooldowns   rest: the books of its rates, of every kind
-- ARGV   1 test clock (µs or '')   2 grant id   3 request id and holder   4 channel of the doorbell   5 L   6 Q
--        then the weight in each of the leases, and the name of each quota   rest: the cost in each of the books
-- Returns 1 if anything was undone, 0 if there was nothing left to undo (so it may be repeated).
--
-- The bell rings for the holders whose turn it is, as in release.lua. A holder that then finds no work leaves the line, so
-- the ringing ends. If it was the call that goes alone after a pause, the next one does: `quota NAME NOW` recalls the calls
-- that were to follow.
-- The record names the charged field of slices, days and windows by the clock; without it they do not come back.
-- Why atomic: a half-undone charge would let a call start under some of its limits only.
-- @include clock
-- @include leases
-- @include undo
-- @include quota
local grant, owner, leases, quotas = ARGV[2], ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6])
local now = clock_read(redis.call('GET', KEYS[1]), ARGV[1], '', '').now
local undone, names = false, {}

local record = redis.call('GET', KEYS[2])
if record and string.match(record, '^%S+ (%S+)') == grant then
  undone = redis.call('DEL', KEYS[2]) == 1
else
  record = nil
end

for number = 1, leases do
  local key, line = KEYS[2 * number + 1], KEYS[2 * number + 2]
  local freed = lease_end(key, grant, owner, tonumber(ARGV[number + 6]))
  if freed > 0 then
    undone = true
    line_call(key, line, freed, true, now, '', names)
  end
end
for number = 1, quotas do
  if cooldown_not_gone(KEYS[2 + 2 * leases + number], grant, now) then
    redis.call('PUBLISH', ARGV[4], 'quota ' .. ARGV[6 + leases + number] .. ' ' .. text(now))
  end
end
for i = 3 + 2 * leases + quotas, #KEYS do
  undone = undo_charge(KEYS[i], record, grant, tonumber(ARGV[i + 4 - leases])) or undone
end
line_ring(ARGV[4], names)
return undone and 1 or 0
