-- Find the commands that the ACL denies this user, without touching any data.
-- KEYS  1 prefix
-- ARGS  commands, each a list of words
-- Returns  the number in the list of each command that was refused for lack of a permission
-- One step, because all commands are tried on a string key that exists only during the script. A command for another type
-- fails on it and changes nothing.
-- @include base
-- The errors of Redis 7, and of Valkey 8 and 9.
local REFUSED = { "user executing the script can't", 'ACL failure in script', 'NOPERM' }
local scratch = P .. ':doctor'
redis.pcall('SET', scratch, '', 'PX', 1000)
local refused = {}
for number, words in ipairs(ARGS.commands) do
  local reply = redis.pcall(unpack(words))
  local err = type(reply) == 'table' and reply.err or ''
  for _, mark in ipairs(REFUSED) do
    if string.find(err, mark, 1, true) then refused[#refused + 1] = number; break end
  end
end
redis.pcall('DEL', scratch)
return refused
