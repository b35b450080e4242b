-- tostring() keeps 14 digits and a time in µs has 16, so every number must be written with this function.
local function text(number)
  return string.format('%.0f', number)
end

-- A key must not expire while it still matters, so every TTL is rounded up to a millisecond and has MARGIN_US on top.
-- Rounding down would let a limit vanish early (redis/redis#15093).
local MARGIN_US = 60000000

local function ttl_ms(rest_us)
  return text(math.ceil((rest_us + MARGIN_US) / 1000))
end

-- PEXPIRE that never shortens; its GT flag exists only since Redis 7.
local function keep_for(key, rest_us)
  local ms = ttl_ms(rest_us)
  if redis.call('PTTL', key) < tonumber(ms) then redis.call('PEXPIRE', key, ms) end
end
