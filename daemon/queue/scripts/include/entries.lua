-- The end of entries of the jobs stream. P:installation counts them in `entries_ended`: those that were added, have not
-- ended and are not there any more have vanished before they were read, as when a producer trims the stream.
-- @include base
must_suit('HLEN', P .. ':installation')

-- Acknowledge and delete. Returns how many of them were there.
local function end_entries(...)
  local ended = redis.call('XACK', JOBS, 'intake', ...)
  if ended > 0 then redis.call('HINCRBY', P .. ':installation', 'entries_ended', ended) end
  return redis.call('XDEL', JOBS, ...)
end
