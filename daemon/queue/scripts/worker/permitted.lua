-- Which commands the ACL does not let this user run, asked without touching any data.
-- KEYS  1 prefix
-- ARGV  1 JSON: a list of commands, each a list of words
-- Returns  the number in the list of each command that was refused for want of a permission
-- One step, because the key that all commands are tried on is a text that exists only meanwhile: what is meant for
-- another type finds the wrong one and changes nothing.
-- @include base
-- As Redis 7 says it, and as Valkey 8 and 9 do.
local REFUSED = { "user executing the script can't", 'ACL failure in script', 'NOPERM' }
local scratch = P .. ':doctor'
redis.pcall('SET', scratch, '', 'PX', 1000)
local refused = {}
for number, words in ipairs(cjson.decode(ARGV[1])) do
  local reply = redis.pcall(unpack(words))
  local told = type(reply) == 'table' and reply.err or ''
  for _, mark in ipairs(REFUSED) do
    if string.find(told, mark, 1, true) then refused[#refused + 1] = number; break end
  end
end
redis.pcall('DEL', scratch)
return refused
