-- The journal of work that a process without an entry in the jobs stream is accepting: if the process is killed, a replica
-- goes on with it. A part's name is `{gid}/{part}`.
--   P:accepting         the names by the time of their writing
--   P:accepting:{name}  the type of the entry, a blank and its data
-- @include base
local ACCEPTING = P .. ':accepting'
must_suit('ZCARD', ACCEPTING)
local function accepting_key(name) return ACCEPTING .. ':' .. name end

local function journal(name, entry)
  redis.call('ZADD', ACCEPTING, NOW_US, name)
  redis.call('SET', accepting_key(name), entry)
end

-- The part has been accepted, or its group is deleted.
local function strike(name)
  if redis.call('ZREM', ACCEPTING, name) == 1 then redis.call('DEL', accepting_key(name)) end
end
