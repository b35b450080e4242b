-- Take consumer names off the groups that nobody uses any more: that of a replica which stops, or those of killed ones.
-- KEYS  1 prefix
-- ARGS  groups: pairs of stream and group; worker (the one to take off), or idle_ms: how long a consumer has read nothing
-- Returns  the number of names taken off
-- One step, because XGROUP DELCONSUMER drops what is pending with the consumer: what it takes between the look and the
-- deletion would be lost. A live replica that was idle for so long loses nothing: its next read makes the name again.
-- @include base
local function is_unused(consumer)
  if ARGS.worker then return consumer.name == ARGS.worker end
  return consumer.idle >= ARGS.idle_ms
end

local forgotten = 0
for _, pair in ipairs(ARGS.groups) do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', unpack(pair))
  for _, row in ipairs(consumers.err and {} or consumers) do
    local consumer = by_name(row)
    if consumer.pending == 0 and is_unused(consumer) then
      redis.call('XGROUP', 'DELCONSUMER', pair[1], pair[2], consumer.name)
      forgotten = forgotten + 1
    end
  end
end
return forgotten
