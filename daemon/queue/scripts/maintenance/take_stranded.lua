-- Take parts of work whose acceptance began long ago, so that it goes on: the process that accepted them has died.
-- KEYS  1 prefix
-- ARGS  age_us: how long ago their acceptance began, most: parts a call
-- Returns  for each { its name, the type of its entry, a blank and its data }
-- One step: a part that is taken counts as begun now, so one replica of the fleet has it. Its journal ends when it has been
-- accepted, by whichever process: to accept a part twice is the same as once.
-- @include base
-- @include journal
local parts = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', ACCEPTING, '-inf', int(NOW - ARGS.age_us), 'LIMIT', 0, ARGS.most)) do
  local entry = redis.call('GET', accepting_key(name))
  if entry then
    parts[#parts + 1] = { name, entry }
    redis.call('ZADD', ACCEPTING, NOW_US, name)
  else
    strike(name)
  end
end
return parts
