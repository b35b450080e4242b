-- Find the work that an earlier send of the same request began, or note the work that this one begins.
-- KEYS  1 prefix
-- ARGS  send: a digest of the caller and the request; id: for new work; records: what the work's id is appended to, to name
--       its records, as in `tenant/` for a batch; kept_us: how long ended work is still joined
--       count: which repetition of its request this send is; 0 begins new work; absent: every send joins
-- Returns  the id of the work: `id` for new work
-- One step, since two repetitions that come at once must not join the same work, nor begin it twice.
-- A repetition joins the newest work that no send of its count, or of a later one, has joined: two equal requests may want
-- two pictures. An id is noted before its work is recorded, so a request that died in between is found, too.
-- @include base
local SENDS = P .. ':sends:' .. ARGS.send
local UNRECORDED_US, LASTS_MS = 60 * 1000000, 3600 * 1000

local function is_joined(id, noted_us)
  local name = ARGS.records .. id
  for _, key in ipairs({ P .. ':batch:' .. name, P .. ':item:' .. name }) do
    local finished_us, state = unpack(redis.call('HMGET', key, 'finished_us', 'state'))
    if state then return not finished_us or finished_us == '' or tonumber(finished_us) > NOW - ARGS.kept_us end
  end
  return noted_us > NOW - UNRECORDED_US
end

local fields, found, found_us = redis.call('HGETALL', SENDS), nil, -1
for i = 1, #fields, 2 do
  local id, mark, noted_us = fields[i], string.match(fields[i + 1], '^(%d+) (%d+)$')
  mark, noted_us = tonumber(mark), tonumber(noted_us)
  if not is_joined(id, noted_us) then
    redis.call('HDEL', SENDS, id)
  elseif noted_us > found_us and (not ARGS.count or mark < ARGS.count) then
    found, found_us = id, noted_us
  end
end
if ARGS.count == 0 then found = nil end
redis.call('HSET', SENDS, found or ARGS.id, (ARGS.count or 0) .. ' ' .. (found and int(found_us) or NOW_US))
redis.call('PEXPIRE', SENDS, LASTS_MS)
return found or ARGS.id
