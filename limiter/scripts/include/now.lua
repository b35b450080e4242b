-- The time of this step in integer µs: the server's own, unless a test clock sent one ('' is no test clock).
-- Called once a script, so everything in one step happens at one instant.
local function time_us(test_clock)
  if test_clock ~= '' then return tonumber(test_clock) end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- tostring() keeps 14 digits and a time in µs has 16, so every number leaves through here.
local function text(number)
  return string.format('%.0f', number)
end
