-- Take names off the groups that nobody uses any more: consumers of replicas that were killed.
-- KEYS  1 prefix
-- ARGV  1 idle (ms): how long a consumer has asked for nothing  2.. pairs of stream, group
-- Returns  the number of names taken off
-- One step, because XGROUP DELCONSUMER drops what is pending with the consumer: what it takes between the look and the
-- deletion would be lost. A live replica that was idle for so long loses nothing: its next read makes the name again.
local forgotten = 0
for i = 2, #ARGV, 2 do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', ARGV[i], ARGV[i + 1])
  for _, row in ipairs(consumers.err and {} or consumers) do
    local told = {}
    for k = 1, #row, 2 do told[row[k]] = row[k + 1] end
    if told.pending == 0 and told.idle >= tonumber(ARGV[1]) then
      redis.call('XGROUP', 'DELCONSUMER', ARGV[i], ARGV[i + 1], told.name)
      forgotten = forgotten + 1
    end
  end
end
return forgotten
