-- The end of entries of the jobs stream. P:installation counts them in `entries_ended`: those that were added, have not
-- ended and are not there any more have vanished before they were accepted, as when a producer trims the stream.
-- @include base
must_suit('HLEN', P .. ':installation')

-- Acknowledge and delete. Returns how many of them were there. An entry that was trimmed after it was read is acknowledged,
-- and one whose group was destroyed meanwhile is deleted: either is an end.
local function end_entries(...)
  local acknowledged = redis.call('XACK', JOBS, 'intake', ...)
  local deleted = redis.call('XDEL', JOBS, ...)
  local ended = math.max(acknowledged, deleted)
  if ended > 0 then redis.call('HINCRBY', P .. ':installation', 'entries_ended', ended) end
  return deleted
end
