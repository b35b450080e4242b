-- Undo a grant whose call was not sent.
--
-- KEYS   1 the request's record   2..L+1 leases   rest: the books of its rates, of every kind
-- ARGV   1 grant id   2 request id and holder   3 L   4.. the cost in each of KEYS[2..], in their order
-- Returns 1 if anything was undone, 0 if there was nothing left to undo (so it may be repeated).
--
-- The record names the charged field of slices, days and windows by the clock; without it they do not come back.
-- Why atomic: a half-undone charge would let a call start under some of its limits only.
-- @include leases
-- @include undo
local grant, owner, leases = ARGV[1], ARGV[2], tonumber(ARGV[3])
local undone = false

local record = redis.call('GET', KEYS[1])
if record and string.match(record, '^%S+ (%S+)') == grant then
  undone = redis.call('DEL', KEYS[1]) == 1
else
  record = nil
end

for i = 2, #KEYS do
  local key, cost = KEYS[i], tonumber(ARGV[i + 2])
  if i <= leases + 1 then
    for unit = 1, cost do undone = redis.call('ZREM', key, lease_member(grant, unit, owner)) == 1 or undone end
  else
    undone = undo_charge(key, record, grant, cost) or undone
  end
end
return undone and 1 or 0
