-- A replica that stops takes its names off the groups, where nothing is pending under them any more.
-- KEYS  1 prefix
-- ARGS  worker, groups: pairs of stream and group
-- Returns  the number of names taken off
-- One step, because XGROUP DELCONSUMER drops what is pending with the consumer: checked and done apart, an entry that arrives
-- in between would be lost.
-- @include base
local left = 0
for _, pair in ipairs(ARGS.groups) do
  local stream, group = unpack(pair)
  local pending = redis.pcall('XPENDING', stream, group, '-', '+', 1, ARGS.worker)
  if not pending.err and #pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, ARGS.worker)
    left = left + 1
  end
end
return left
