-- Tell that the fleet or a route is paused or goes on: everybody who looks, every replica, and every batch's progress.
local function tell_pause(kind, scope, route, extra)
  local named = scope == 'route' and '"' .. route .. '"' or 'null'
  emit_data(kind, '', '{"scope":"' .. scope .. '","route":' .. named .. extra .. TIME_FIELD .. '}')
  redis.call('PUBLISH', P .. ':bell', 'pause')
  for _, gid in ipairs(redis.call('ZRANGE', P .. ':active', 0, -1)) do redis.call('SADD', P .. ':dirty', gid) end
end
