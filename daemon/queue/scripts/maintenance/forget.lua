-- Take consumer names off the groups that nobody uses any more: those of replicas that were killed.
-- KEYS  1 prefix
-- ARGS  idle_ms: how long a consumer has read nothing, groups: pairs of stream and group
-- Returns  the number of names taken off
-- One step, because XGROUP DELCONSUMER drops what is pending with the consumer: what it takes between the look and the
-- deletion would be lost. A live replica that was idle for so long loses nothing: its next read makes the name again.
-- @include base
local forgotten = 0
for _, pair in ipairs(ARGS.groups) do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', unpack(pair))
  for _, row in ipairs(consumers.err and {} or consumers) do
    local consumer = {}
    for k = 1, #row, 2 do consumer[row[k]] = row[k + 1] end
    if consumer.pending == 0 and consumer.idle >= ARGS.idle_ms then
      redis.call('XGROUP', 'DELCONSUMER', pair[1], pair[2], consumer.name)
      forgotten = forgotten + 1
    end
  end
end
return forgotten
