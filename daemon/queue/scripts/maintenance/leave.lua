-- A replica that stops takes its names off the groups, where nothing is pending under them any more.
-- KEYS  1 prefix
-- ARGV  1 worker  2.. pairs of stream, group
-- Returns  the number of names taken off
-- One step, because XGROUP DELCONSUMER drops what is pending with the consumer: checked and done apart, an entry
-- that arrives in between would be lost.
local left = 0
for i = 2, #ARGV, 2 do
  local pending = redis.pcall('XPENDING', ARGV[i], ARGV[i + 1], '-', '+', 1, ARGV[1])
  if not pending.err and #pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', ARGV[i], ARGV[i + 1], ARGV[1])
    left = left + 1
  end
end
return left
