-- Note the rest of a limit from a provider's headers. If it is less than in our books, others use the account too, and
-- their use counts beside ours until the limit resets.
--
-- KEYS   1 clock   2..7 the quota's six strings, see include/quota.lua   8 the limit's book   9 spread
-- ARGV   1 test clock (µs or '')   2 fingerprint of a quota that learns   3 slot (µs) of the answered call's grant
--        4 units left then   5 time to the reset (µs)   6 kind: log, slices or day
--        7 unit   8 count   9 span (µs)   10 period (µs)   11 midnights of a day, else ''   12 its grant id
-- Returns the units that count as use by others from now on; -1 if a newer answer is known.
--
-- The newest answer replaces the one before, so no use counts twice. It only tightens.
-- Why atomic: another call could be granted between the read of our own use and the write of the difference.
-- @include clock
-- @include quota
-- @include rates
local strings = redis.call('MGET', unpack(KEYS, 1, 7))
local clock = clock_read(strings[1], ARGV[1], '', '')
local now, sent, left = clock.now, tonumber(ARGV[3]), tonumber(ARGV[4])
local row = {
  quota = {
    cooldown = cooldown_read(nil), learned = learned_read(strings[5], ARGV[2]), others = strings[6],
    guard = tonumber(strings[7]) or 1, keep = {}, logged = {},
  },
  kind = ARGV[6], key = KEYS[8], unit = ARGV[7], cost = 1, count = tonumber(ARGV[8]), span = tonumber(ARGV[9]),
  extra = ARGV[6] == 'day' and ARGV[11] or ARGV[10],
}
rate_now(row, tonumber(redis.call('GET', KEYS[9])) or 0)
-- A late call has moved since its grant.
if row.kind == 'log' then sent = tonumber(redis.call('ZSCORE', row.key, ARGV[12] .. ':1')) or sent end
if row.others and sent <= row.others.sent then return -1 end
rate_load(row, clock)

-- Our use in the limit's window, and the part of it that is newer than the answer, which may not include it.
local used, newer, ends = rate_used_now(row, clock), 0, now + row.period
if row.kind == 'log' then
  newer = redis.call('ZCOUNT', row.key, '(' .. text(sent), '+inf')
elseif row.kind == 'slices' then
  newer = slices_since(row.book, math.floor(sent / row.book.width))
else
  -- A day's book has no times, so all use counts as older than the answer; the next answer corrects that.
  local today = day_of(row.book, clock.wall)
  if not today then return -1 end
  ends = tonumber(row.book.starts[today + 1]) + clock.offset
end
ends = math.min(ends, now + tonumber(ARGV[5]))

local cost = math.max(0, math.max(0, row.count - used) - math.max(0, left - newer))
-- Note it even if others use nothing, so that an older answer that comes later is ignored.
others_write(KEYS[6], strings[6], row.id, sent, cost, ends, now)
return cost
