#!lua
-- Note the format of a new namespace, or tell which one an old namespace has.
--
-- KEYS  1: the namespace's prefix
-- ARGV  the newest format that the caller knows
-- Returns {'format', number}; {'foreign', key, found, expected}.

local wrong = closed_hash(prefix .. 'meta')
if wrong then return wrong end
redis.call('HSETNX', prefix .. 'meta', 'format', take())
return { 'format', redis.call('HGET', prefix .. 'meta', 'format') }
