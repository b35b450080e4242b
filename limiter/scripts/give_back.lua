-- Undo a grant whose call was not sent.
--
-- KEYS   1 the request's record   2..L+1 logs and leases   L+2..T+1 tokens   rest: slices and days
-- ARGV   1 grant id   2 request id and holder   3 L   4 T   5.. the cost in each of KEYS[2..], in their order
-- Returns 1 if anything was undone, 0 if there was nothing left to undo (so twice is once).
--
-- Of slices and days the record says which field was charged; they come back only while it is known.
-- Why atomic: half of it undone would let a call start under some of its limits only.
-- @include leases
local grant, who = ARGV[1], ARGV[2]
local logs, tokens = tonumber(ARGV[3]), tonumber(ARGV[4])
local undone = 0

local record = redis.call('GET', KEYS[1])
if record and string.match(record, '^%S+ (%S+)') == grant then
  undone = redis.call('DEL', KEYS[1])
else
  record = nil
end

for i = 2, #KEYS do
  local key, cost = KEYS[i], tonumber(ARGV[i + 3])
  if i <= logs + 1 then
    for unit = 1, cost do
      if redis.call('ZREM', key, grant .. ':' .. unit, lease_member(grant, unit, who)) > 0 then undone = 1 end
    end
  elseif i <= tokens + 1 then
    if redis.call('ZREM', key, grant .. ':' .. text(cost)) == 1 then undone = 1 end
  elseif record then
    local from = select(2, string.find(record, ' ' .. key .. '=', 1, true))
    local field = from and string.match(record, '^%S+', from + 1)
    if field and redis.call('HINCRBY', key, field, -cost) <= 0 then redis.call('HDEL', key, field) end
  end
end
return undone
