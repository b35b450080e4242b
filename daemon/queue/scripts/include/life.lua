-- A life of the server: from one start or failover to the next. Between two lives Redis may have lost its last writes,
-- about a second of them, so what a record lacks may have happened all the same. `run_id` names the process. It changes at
-- every restart and failover, which neither the limiter's epoch (it comes back with the file) nor the replication offset
-- (it begins anew) shows. A server that hides it seems to have one life for ever.
-- The hash of the installation has the present life (`life`) and its beginning (`life_us`), 0 for the first one.
-- @include base
local function life_began_us()
  local info = redis.pcall('INFO', 'server')
  local id = type(info) == 'string' and string.match(info, 'run_id:(%x+)')
  local known = read_fields(P .. ':installation', 'life', 'life_us')
  if not id or known.life == id then return number(known.life_us) end
  -- The clock of a new master may be behind, and each life is later than the one before it.
  local began = known.life and math.max(NOW, number(known.life_us) + 1) or 0
  redis.call('HSET', P .. ':installation', 'life', id, 'life_us', int(began))
  return began
end

-- An epoch that no earlier run has, though the record has lost that run, or all records are lost.
local function next_epoch(item) return int(math.max(number(item.epoch) + 1, NOW)) end
