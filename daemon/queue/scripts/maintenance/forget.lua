-- Remove consumer names from the consumer groups: the name of a replica that stops, or the names of killed replicas.
-- KEYS  1 prefix
-- ARGS  groups: pairs of stream and group; worker (the name to remove), or idle_ms: how long a consumer has read nothing
-- Returns  the number of removed names
-- One step, because XGROUP DELCONSUMER drops the consumer's pending entries: an entry that it takes between the look and the
-- deletion would be lost. A live replica that was idle for so long loses nothing, since its next read creates the name again.
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
