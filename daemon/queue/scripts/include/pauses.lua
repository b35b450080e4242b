-- Tell that the fleet or a route is paused or goes on: everybody who looks, every replica, and every batch's progress.
local function tell_pause(kind, scope, route, extra)
  local named = scope == 'route' and '"' .. route .. '"' or 'null'
  emit_data(kind, '', '{"scope":"' .. scope .. '","route":' .. named .. extra .. TIME_FIELD .. '}')
  redis.call('PUBLISH', P .. ':bell', 'pause')
  for _, gid in ipairs(redis.call('ZRANGE', P .. ':active', 0, -1)) do redis.call('SADD', P .. ':dirty', gid) end
end

-- A hash of pauses that all end by themselves ends with the last of them.
local function date_pauses()
  local last_us = 0
  for _, value in ipairs(redis.call('HVALS', P .. ':paused')) do
    local ends_us = string.match(value, '^(%d+) ')
    if not ends_us then
      redis.call('PERSIST', P .. ':paused')
      return
    end
    last_us = math.max(last_us, tonumber(ends_us))
  end
  if last_us > 0 then redis.call('PEXPIRE', P .. ':paused', math.max(1, math.ceil((last_us - NOW) / 1000))) end
end
