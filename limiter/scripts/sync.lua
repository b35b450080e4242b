-- What a provider's headers said is left of a limit: if that is less than our books promise, others use it too, and
-- their use counts beside ours until the limit resets.
--
-- KEYS   1 clock   2..6 the quota's five strings, see include/quota.lua   7 the limit's book   8 spread
-- ARGV   1 test clock (µs or '')   2 fingerprint of what learns   3 slot (µs) of the call whose answer it was
--        4 what was left then   5 time to the reset (µs), or -1   6 kind: window, slices or day
--        7 unit   8 count   9 span (µs)   10 period (µs)   11 midnights of a day, else ''
-- Returns the units that others use, as counted from now on; -1 where the answer is older than what is known.
--
-- The newest answer replaces the one before and is never added to it, so nothing counts twice. It only tightens.
-- Why atomic: between reading our own use and writing the difference another call could be granted.
-- @include clock
-- @include quota
-- @include slices
-- @include day
local strings = redis.call('MGET', unpack(KEYS, 1, 6))
local clock = clock_read(strings[1], ARGV[1], '', '')
local now, sent, left, reset = clock.now, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local quota = {cooldown = cooldown_read(nil), learned = learned_read(strings[5], ARGV[2])}
local row = {
  kind = ARGV[6], key = KEYS[7], cost = 1, count = tonumber(ARGV[8]), span = tonumber(ARGV[9]), period = tonumber(ARGV[10]),
}
local id = ARGV[7] .. ':' .. text(row.period)

local known = others_read(strings[6], ARGV[7], row.period)
if known and sent <= known.sent then return -1 end

-- Our use in the limit's window, and the part of it that is newer than the answer and so may not be in it.
local used, newer, ends = 0, 0, now + row.period
if row.kind == 'window' then
  limit_now(row, quota, tonumber(redis.call('GET', KEYS[8])) or 0)
  used = redis.call('ZCOUNT', row.key, '(' .. text(now - row.span), '+inf')
  newer = redis.call('ZCOUNT', row.key, '(' .. text(sent), '+inf')
elseif row.kind == 'slices' then
  limit_now(row, quota, 0)
  local read = slices_load(row.key, row.span)
  local oldest = math.floor((now - row.span) / read.width)
  for slice, uses in pairs(read) do
    if type(slice) == 'number' and slice >= oldest then used = used + uses end
    if type(slice) == 'number' and slice >= math.floor(sent / read.width) then newer = newer + uses end
  end
else
  -- A day does not know when in it, so what is newer than the answer is taken to be nothing; the next answer will tell.
  local read = day_load(row.key, ARGV[11])
  local today = day_of(read, clock.wall)
  if not today then return -1 end
  used = read.used[read.starts[today]] or 0
  ends = tonumber(read.starts[today + 1]) + clock.offset
end
if reset >= 0 then ends = math.min(ends, now + reset) end

local ours, theirs = math.max(0, row.count - used), math.max(0, left - newer)
local cost = math.max(0, ours - theirs)
local kept, latest = '', now
for other, was, units, until_us in string.gmatch(strings[6] or '', '(%S+) (%d+) (%d+) (%d+);') do
  if other ~= id and tonumber(until_us) > now then
    kept = kept .. string.format('%s %s %s %s;', other, was, units, until_us)
    latest = math.max(latest, tonumber(until_us))
  end
end
-- Kept also where others use nothing: an older answer that comes later must not say otherwise.
kept = kept .. string.format('%s %.0f %.0f %.0f;', id, sent, cost, ends)
redis.call('SET', KEYS[6], kept, 'PX', ttl_ms(math.max(latest, ends) - now))
return cost
