-- The common part of pause and resume of the fleet or a route.
-- @include base
-- @include events
-- @include groups
local PAUSED = P .. ':paused'
must_suit('HLEN', PAUSED)
local function pause_field() return ARGS.scope == 'route' and 'route:' .. ARGS.name or 'fleet' end

-- Publish a pause or its end: to watchers, to every replica, and for each batch's progress.
local function announce_pause(kind, extra)
  local route = ARGS.scope == 'route' and '"' .. ARGS.name .. '"' or 'null'
  publish(kind, '{"scope":"' .. ARGS.scope .. '","route":' .. route .. extra .. TIME_FIELD .. '}')
  redis.call('PUBLISH', BELL, 'pause')
  for _, gid in ipairs(redis.call('ZRANGE', ACTIVE, 0, -1)) do redis.call('SADD', DIRTY, gid) end
end

-- If every pause has an end, the hash expires with the last of them.
local function date_pauses()
  local last_us = 0
  for _, value in ipairs(redis.call('HVALS', PAUSED)) do
    local ends_us = string.match(value, '^(%d+) ')
    if not ends_us then
      redis.call('PERSIST', PAUSED)
      return
    end
    last_us = math.max(last_us, tonumber(ends_us))
  end
  if last_us > 0 then redis.call('PEXPIRE', PAUSED, math.max(1, math.ceil((last_us - NOW) / 1000))) end
end
