-- Move a call that is late for its slot to the present moment in the books, or refuse it.
--
-- KEYS   1 clock   2 the request's record   3 spread   rest: see include/rows.lua
-- ARGV   1 test clock (µs or '')   2 grant id   3 '1' if the call was sent   4 channel of the doorbell
--        5 number of quotas   rest: see include/rows.lua
-- Returns 1 if the call counts from now on, or its slot is still to come. 0 if it must not be sent: a limit has no room now
--         beside the calls of others that have left, or a cooldown has begun. Then its rates are free again, and
--         `give_back` frees its places. A repeat of a refused call, whose reply was lost, is refused again: the record
--         has `-` for the time of the grant. A window by the clock and a very large one count slots ahead as calls that
--         left.
--
-- The provider counts from the arrival. An entry that stays at its slot leaves our window while the call is still in the
-- provider's, and the next call would be one too many. Slots ahead that were granted behind the former entry may have no
-- room any more. The bell then says `quota NAME NOW NOW`, which recalls the grants up to now with a slot after now.
-- A calendar day counts the call at its slot.
-- Why atomic: another call could be granted between the look for room and the charge.
-- @include clock
-- @include rows
-- @include charge
-- @include undo

-- A recall needs so long to reach a process, so a call with a slot until then counts as one that has left.
local BELL_US = 20000

local strings = strings_read(5)
local clock = clock_read(strings[1], ARGV[1], '', '')
local now, grant, sent = clock.now, ARGV[2], ARGV[3] == '1'
local soon = now + BELL_US
local quotas, rows = rows_read(5, strings)

-- Without its record the charge stays in slices and in windows by the clock, and the call counts twice there.
local record = strings[2]
if record and string.match(record, '^%S+ (%S+)') ~= grant then record = nil end
local granted_at = tonumber(string.match(record or '', '^%S+ %S+ (%S+)')) or 0
if record and granted_at == 0 and not sent then return 0 end
if record and tonumber(string.match(record, '^%S+')) >= now then return 1 end

local rates, undone = {}, {}
for _, row in ipairs(rows) do
  if row.kind ~= 'in_flight' and row.kind ~= 'day' then
    if not undone[row.key] then undo_charge(row.key, record, grant, row.cost) end
    undone[row.key] = true
    rates[#rates + 1] = row
  end
end

-- Whether a limit has room now beside the calls before `soon`, and whether it has room beside those ahead too.
local function room(row)
  rate_load(row, clock)
  note_change(row, clock)
  row.opens = math.max(changed_until(row, clock), loss_until(row, clock))
  -- A late call is not paced: calls are spread to be careful, and this one is late already.
  row.gap, row.paced = 0, 0
  if rate_next(row, now, clock) == now then return true, true end
  if row.opens > now then return false, false end
  local count = row.count
  if row.others and now < row.others.ends then count = count - row.others.cost end
  if row.kind == 'log' then
    local used = redis.call('ZCOUNT', row.key, '(' .. text(now - row.span), text(soon))
    return used + row.cost <= count, false
  end
  return row.kind == 'tokens' and tokens_there(row.book, row.cost, now, soon), false
end

local allowed, recalled = true, {}
-- The one call that goes alone after a pause was granted after the refusal.
for _, quota in ipairs(quotas) do
  allowed = allowed and (quota.cooldown.ends <= now or granted_at > quota.cooldown.cut)
end
for _, row in ipairs(rates) do
  local before, ahead = room(row)
  allowed = allowed and before
  if not ahead then recalled[row.quota.name] = true end
end
if not allowed and not sent then
  -- Without the record nothing could find the charged day.
  for _, row in ipairs(record and rows or {}) do
    if row.kind == 'day' then undo_charge(row.key, record, grant, row.cost) end
  end
  if record then redis.call('SET', KEYS[2], text(now) .. ' ' .. grant .. ' -', 'KEEPTTL') end
  return 0
end

local fields = charge_rates(rates, now, grant, clock)
if record then
  for _, row in ipairs(rows) do
    local field = row.kind == 'day' and charged_field(record, row.key)
    if field then fields = fields .. ' ' .. row.key .. '=' .. field end
  end
  redis.call('SET', KEYS[2], text(now) .. ' ' .. grant .. ' ' .. text(granted_at) .. fields, 'KEEPTTL')
end
clock_write(KEYS[1], clock)
for name in pairs(recalled) do redis.call('PUBLISH', ARGV[4], string.format('quota %s %.0f %.0f', name, now, now)) end
return 1
