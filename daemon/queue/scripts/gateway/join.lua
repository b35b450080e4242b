-- Find the work that an earlier send of the same request began, or note the work that this one begins.
-- KEYS  1 prefix
-- ARGS  send: a digest of the caller and the request; id: for new work; records: what the work's id is appended to, to name
--       its records, as in `tenant/` for a batch; kept_us: how long ended work is still joined
--       count: which repetition of its request this send is; 0 begins new work; absent: every send joins
-- Returns  the id of the work: `id` for new work
-- One step, since two repetitions that come at once must not join the same work, nor begin it twice.
-- A repetition joins the newest work that no send of its count, or of a later one, has joined: two equal requests may want
-- two pictures. An id is noted before its work is recorded, so a request that died in between is found, too.
-- Only the newest sends are noted, so that a caller who sends one body all the time does not make the step long.
-- @include base
local SENDS = P .. ':sends:' .. ARGS.send  -- an id, a blank and the highest count that joined it, by the time of its noting
local UNRECORDED_US, LASTS_MS, MOST = 60 * 1000000, 3600 * 1000, 64

local function is_joined(id, noted_us)
  local name = ARGS.records .. id
  for _, key in ipairs({ P .. ':batch:' .. name, P .. ':item:' .. name }) do
    local finished_us, state = unpack(redis.call('HMGET', key, 'finished_us', 'state'))
    if state then return not finished_us or finished_us == '' or tonumber(finished_us) > NOW - ARGS.kept_us end
  end
  return noted_us > NOW - UNRECORDED_US
end

-- Returns the id to join with the time of its noting; nothing if there is none.
local function find()
  local noted = redis.call('ZREVRANGE', SENDS, 0, MOST - 1, 'WITHSCORES')
  for i = 1, #noted, 2 do
    local id, mark = string.match(noted[i], '^(.*) (%d+)$')
    local noted_us = tonumber(noted[i + 1])
    local is_live = is_joined(id, noted_us)
    local is_found = is_live and (not ARGS.count or tonumber(mark) < ARGS.count)
    if is_found or not is_live then redis.call('ZREM', SENDS, noted[i]) end
    if is_found then return id, int(noted_us) end
  end
end

local found, found_us
if ARGS.count ~= 0 then found, found_us = find() end
redis.call('ZADD', SENDS, found_us or NOW_US, (found or ARGS.id) .. ' ' .. (ARGS.count or 0))
redis.call('ZREMRANGEBYRANK', SENDS, 0, -MOST - 1)
redis.call('PEXPIRE', SENDS, LASTS_MS)
return found or ARGS.id
