-- Undo a grant whose call was not sent.
--
-- KEYS   1 the request's record   2..L+1 logs and leases   L+2..T+1 tokens   rest: slices and days
-- ARGV   1 grant id   2 request id and holder   3 L   4 T   5.. the cost in each of KEYS[2..], in their order
-- Returns 1 if anything was undone, 0 if there was nothing left to undo (so twice is once).
--
-- Of slices and days the record says which field was charged; they come back only while it is known.
-- Why atomic: half of it undone would let a call start under some of its limits only.
-- @include leases
-- @include undo
local grant, who = ARGV[1], ARGV[2]
local logs, tokens = tonumber(ARGV[3]), tonumber(ARGV[4])
local undone = false

local record = redis.call('GET', KEYS[1])
if record and string.match(record, '^%S+ (%S+)') == grant then
  undone = redis.call('DEL', KEYS[1]) == 1
else
  record = nil
end

for i = 2, #KEYS do
  local key, cost = KEYS[i], tonumber(ARGV[i + 3])
  if i <= logs + 1 then
    undone = undo_window(key, grant, cost) or undone
    for unit = 1, cost do undone = redis.call('ZREM', key, lease_member(grant, unit, who)) == 1 or undone end
  elseif i <= tokens + 1 then
    undone = undo_tokens(key, grant, cost) or undone
  elseif record then
    undo_field(key, record, cost)
  end
end
return undone and 1 or 0
