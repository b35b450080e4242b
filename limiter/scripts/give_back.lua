-- Undo a grant whose call was not sent.
--
-- KEYS   1         the request's record
--        2..B+1    token buckets
--        B+2..L+B+1  leases
--        rest      logs
-- ARGV   1 grant id   2 lease member   3 B   4 L   5.. the cost in each log, in their order
-- Returns 1 if anything was undone, 0 if there was nothing left to undo (so twice is once).
--
-- Why atomic: half of it undone would let a call start under some of its limits only.
local grant, buckets, leases = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local undone = 0

local known = redis.call('GET', KEYS[1])
if known and string.match(known, '^%S+ (%S+)') == grant then undone = redis.call('DEL', KEYS[1]) end

-- Tokens come back only while this grant is the bucket's last charge, as the exact state before it. After a
-- later charge they are forfeited: a bucket (like the arrival time of GCRA) keeps one number for its whole
-- future, so a refund would free the early place by selling the late one a second time: next to a grant that
-- already has that place, one call more than the burst within one window.
for i = 2, buckets + 1 do
  local stored = redis.call('GET', KEYS[i])
  if stored then
    local period, last, updated, credit = string.match(stored, '^%S+ %S+ (%S+) (%S+) (%S+) (%S+)$')
    if last == grant then
      redis.call('SET', KEYS[i], updated .. ' ' .. credit .. ' ' .. period .. ' - 0 0', 'KEEPTTL')
      undone = 1
    end
  end
end

for i = buckets + 2, buckets + leases + 1 do
  if redis.call('ZREM', KEYS[i], ARGV[2]) == 1 then undone = 1 end
end

for i = buckets + leases + 2, #KEYS do
  for unit = 1, tonumber(ARGV[i - buckets - leases + 3]) do
    if redis.call('ZREM', KEYS[i], grant .. ':' .. unit) == 1 then undone = 1 end
  end
end
return undone
