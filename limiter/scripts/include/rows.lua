-- @include quota
-- Reads the arguments of acquire.lua and snapshot.lua into named fields.
--
-- KEYS   4.. the strings of each quota, see include/quota.lua   rest: books, leases, waiting
-- ARGV   `first` number of quotas   then pairs, one a quota: name, fingerprint of its configuration if it learns or ''
--        rest: rows of nine, one a limit: number of the quota, kind, key index, unit, cost, count, span (µs), extra,
--        key indices of the unit's other books, which a former configuration may have left
--            log, slices   span: period and guard   extra: period
--            tokens        span: period   extra: burst and lag (µs)
--            fixed         span: period   extra: guard (µs) at either end of it
--            day           extra: midnights
--            in_flight     extra: key index of the line of holders
local FIELDS = 9

-- The values of the clock, KEYS[2] and the spread, then the strings of the quotas.
local function strings_read(first)
  return redis.call('MGET', unpack(KEYS, 1, 3 + QUOTA_STRINGS * tonumber(ARGV[first])))
end

local function row_read(i, quotas)
  local quota, unit = quotas[tonumber(ARGV[i])], ARGV[i + 3]
  local row = {
    quota = quota, kind = ARGV[i + 1], key = KEYS[tonumber(ARGV[i + 2])], unit = unit, cost = tonumber(ARGV[i + 4]),
    count = tonumber(ARGV[i + 5]), span = tonumber(ARGV[i + 6]), extra = ARGV[i + 7], former = {},
    bound = bound_of(quota, unit),
  }
  for index in string.gmatch(ARGV[i + 8], '%d+') do row.former[#row.former + 1] = KEYS[tonumber(index)] end
  return row
end

-- The quotas and the rows.
local function rows_read(first, strings)
  local quotas, rows = {}, {}
  for number = 1, tonumber(ARGV[first]) do
    local at = 3 + QUOTA_STRINGS * (number - 1)
    local name, fingerprint = ARGV[first + 2 * number - 1], ARGV[first + 2 * number]
    quotas[number] = {
      name = name, fingerprint = fingerprint, pause = strings[at + 1], cooldown = cooldown_read(strings[at + 2]),
      cooldown_key = KEYS[at + 2],
      places = strings[at + 3], learned = learned_read(strings[at + 4], fingerprint), learned_key = KEYS[at + 4],
      others = strings[at + 5], others_key = KEYS[at + 5], guard = tonumber(strings[at + 6]) or 1,
      keep = {}, logged = {}, slices = {},
    }
  end
  for i = first + 1 + 2 * #quotas, #ARGV, FIELDS do
    rows[#rows + 1] = row_read(i, quotas)
  end
  for _, row in ipairs(rows) do
    if row.kind == 'in_flight' then
      row.line = KEYS[tonumber(row.extra)]
    else
      rate_now(row, tonumber(strings[3]) or 0)
    end
  end
  return quotas, rows
end
