-- Write down where running items stand with their provider: the intent before a call, the receipt after it.
-- KEYS  1 prefix
-- ARGV  1 number of items, then 4 for each: uid, epoch, what (intent|receipt), text (JSON of the receipt, or '')
-- Returns  1 for each item that is still the caller's, 0 for one that is not (it must stop: nothing may be sent)
-- One step with the check of the epoch: a worker that slept past its lease must not begin a paid call.
-- @include base
-- @include events

local results = {}
for i = 0, tonumber(ARGV[1]) - 1 do
  local uid, epoch, what, text = unpack(ARGV, 2 + i * 4, 5 + i * 4)
  local key = item_key(uid)
  local f = redis.call('HMGET', key, 'state', 'epoch', 'head')
  if f[1] == 'running' and f[2] == epoch then
    if what == 'intent' then
      redis.call('HSET', key, 'intent_us', NOW_US)
    else
      redis.call('HSET', key, 'receipt', text)
      local _, batch = split_uid(uid)
      emit('job.submitted', f[3], batch, inside(text))
    end
    results[i + 1] = 1
  else
    results[i + 1] = 0
  end
end
return results
