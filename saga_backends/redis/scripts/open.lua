#!lua flags=allow-oom
-- Note the format of a new namespace, or tell which one an old namespace has. On a server that is
-- out of memory too: who comes to purge opens the store first.
--
-- KEYS  1: the namespace's prefix
-- ARGV  the newest format that the caller knows
-- Returns {'format', number}; {'foreign', key, found, expected}; an error that names a command and
-- a key if the user may not do all that the scripts do.

local META, any = prefix .. 'meta', 'any'
local NEEDS = {
  [META] = { 'HSETNX' },
  [SAGA .. any] = { 'HSET', 'HDEL', 'HGET', 'HMGET', 'HEXISTS', 'EXISTS', 'UNLINK' },
  [HISTORY .. any] = { 'RPUSH', 'LRANGE', 'UNLINK' },
  [COMMITS .. any] = { 'HSET', 'HGET', 'UNLINK' },
  [INBOX .. any] = { 'RPUSH', 'LRANGE', 'UNLINK' },
  [EVENTS .. any] = { 'HSET', 'HGET', 'HEXISTS', 'HGETALL', 'UNLINK' },
  [CLAIM .. any] = { 'RPUSH', 'LRANGE', 'PEXPIRE' },
  [AGGREGATES] = { 'HSET', 'HGET', 'HDEL' },
  [DUE] = { 'ZADD', 'ZREM', 'ZRANGEBYSCORE', 'ZCOUNT', 'ZSCORE' },
  [lane_key('0', any)] = { 'ZADD', 'ZREM', 'ZRANGEBYSCORE' },
  [QUEUE .. any] = { 'ZADD', 'ZREM', 'ZRANGEBYSCORE' },
  [ENDED] = { 'ZADD', 'ZREM', 'ZRANGEBYSCORE' },
  [BY .. any] = { 'ZADD', 'ZREM', 'ZRANGEBYSCORE', 'ZCOUNT', 'ZCARD', 'ZSCORE' },
  [WAKE] = { 'PUBLISH' },
}
for key, commands in pairs(NEEDS) do
  if key ~= WAKE and denied('TYPE', key) then return denied('TYPE', key) end
  for n = 1, #commands do
    if denied(commands[n], key) then return denied(commands[n], key) end
  end
end

local wrong = foreign(META, 'hash')
if wrong then return wrong end
redis.call('HSETNX', META, 'format', take())
return { 'format', redis.call('HGET', META, 'format') }
