-- Which commands the ACL does not let this user run, tried without touching any data.
-- KEYS  1 prefix
-- ARGS  commands, each a list of words
-- Returns  the number in the list of each command that was refused for want of a permission
-- One step, because the key that all commands are tried on is a text that exists only meanwhile: a command for another type
-- finds the wrong one and changes nothing.
-- @include base
-- The words of Redis 7, and of Valkey 8 and 9.
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
