-- @include rates
-- @include changed
-- Charge rates at a slot; returns ` KEY=FIELD` of each charged field of a hash, for the request's record.
local function charge_rates(rates, slot, grant, clock)
  local fields = ''
  for _, row in ipairs(rates) do
    local field = rate_charge(row, slot, grant, clock)
    charge_slices_beside(row, slot)
    if field then fields = fields .. ' ' .. row.key .. '=' .. field end
  end
  return fields
end
