-- The journal of work that a process without an entry in the jobs stream is accepting: if the process is killed, a replica
-- goes on with it. A part's name is `{gid}/{part}`.
--   P:accepting               the names by the time of their writing
--   P:accepting:{name}{mark}  the type of the entry, a blank and its data. The mark of a batch is in its record: later
--                             parts are written before it is opened, perhaps by two senders of the same id at once
-- @include base
local ACCEPTING = P .. ':accepting'
must_suit('ZCARD', ACCEPTING)
local function marked_key(name, mark) return ACCEPTING .. ':' .. name .. mark end
local function accepting_key(name)
  local gid = string.match(name, '^(.*)/%d+$') or ''
  return marked_key(name, redis.call('HGET', group_key(gid), 'mark') or '')
end

local function journal(name, entry)
  redis.call('ZADD', ACCEPTING, NOW_US, name)
  redis.call('SET', accepting_key(name), entry)
end

-- Journal a part whose data was written before, with an early end. It keeps a late one: if the batch's record ended first,
-- nothing would name that data any more.
local KEPT_MS = 30 * 86400 * 1000
local function keep_staged(name, mark)
  if redis.call('PEXPIRE', marked_key(name, mark), KEPT_MS) == 1 then redis.call('ZADD', ACCEPTING, NOW_US, name) end
end

-- The part has been accepted, or its group is deleted.
local function strike(name)
  if redis.call('ZREM', ACCEPTING, name) == 1 then redis.call('DEL', accepting_key(name)) end
end
