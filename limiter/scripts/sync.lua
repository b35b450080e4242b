-- Note what is left of a limit by a provider's headers: if that is less than our books promise, others use the account
-- too, and their use counts beside ours until the limit resets.
--
-- KEYS   1 clock   2..6 the quota's five strings, see include/quota.lua   7 the limit's book   8 spread
-- ARGV   1 test clock (µs or '')   2 fingerprint of what learns   3 slot (µs) of the call whose answer it was
--        4 what was left then   5 time to the reset (µs)   6 kind: log, slices or day
--        7 unit   8 count   9 span (µs)   10 period (µs)   11 midnights of a day, else ''
-- Returns the units that others use, as counted from now on; -1 where the answer is older than what is known.
--
-- The newest answer replaces the one before and is never added to it, so nothing counts twice. It only tightens.
-- Why atomic: between reading our own use and writing the difference another call could be granted.
-- @include clock
-- @include quota
-- @include rates
local strings = redis.call('MGET', unpack(KEYS, 1, 6))
local clock = clock_read(strings[1], ARGV[1], '', '')
local now, sent, left = clock.now, tonumber(ARGV[3]), tonumber(ARGV[4])
local row = {
  quota = {cooldown = cooldown_read(nil), learned = learned_read(strings[5], ARGV[2]), others = strings[6]},
  kind = ARGV[6], key = KEYS[7], unit = ARGV[7], cost = 1, count = tonumber(ARGV[8]), span = tonumber(ARGV[9]),
  extra = ARGV[6] == 'day' and ARGV[11] or ARGV[10],
}
rate_now(row, tonumber(redis.call('GET', KEYS[8])) or 0)
if row.others and sent <= row.others.sent then return -1 end
rate_load(row, clock)

-- Our use in the limit's window, and the part of it that is newer than the answer and so may not be in it.
local used, newer, ends = rate_used_now(row, clock), 0, now + row.period
if row.kind == 'log' then
  newer = redis.call('ZCOUNT', row.key, '(' .. text(sent), '+inf')
elseif row.kind == 'slices' then
  newer = slices_since(row.book, math.floor(sent / row.book.width))
else
  -- A day's book has no times, so nothing is taken to be newer than the answer; the next answer corrects that.
  local today = day_of(row.book, clock.wall)
  if not today then return -1 end
  ends = tonumber(row.book.starts[today + 1]) + clock.offset
end
ends = math.min(ends, now + tonumber(ARGV[5]))

local cost = math.max(0, math.max(0, row.count - used) - math.max(0, left - newer))
-- Noted also where others use nothing: an older answer that comes later must not say otherwise.
others_write(KEYS[6], strings[6], row.id, sent, cost, ends, now)
return cost
