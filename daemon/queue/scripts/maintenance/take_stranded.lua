-- Send the parts of work through the jobs stream whose acceptance began long ago: the process that accepted them has died.
-- KEYS  1 prefix
-- ARGS  age_us: how long ago their acceptance began, most: parts a call
-- Returns  the number of parts sent
-- One step, so that a part is either in the journal or in the stream. A process that is only slow loses nothing, since
-- accepting a part twice is the same as once.
-- @include base
-- @include journal
local names = redis.call('ZRANGEBYSCORE', ACCEPTING, '-inf', int(NOW - ARGS.age_us), 'LIMIT', 0, ARGS.most)
for _, name in ipairs(names) do
  local kind, data = string.match(redis.call('GET', accepting_key(name)) or '', '^(%S+) (.*)$')
  if kind then redis.call('XADD', JOBS, '*', 'type', kind, 'data', data) end
  strike(name)
end
return #names
