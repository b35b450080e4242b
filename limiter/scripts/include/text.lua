-- tostring() keeps 14 digits and a time in µs has 16, so every number must be written with this function.
local function text(number)
  return string.format('%.0f', number)
end
