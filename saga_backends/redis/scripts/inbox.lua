#!lua flags=no-writes
-- Read a saga's inbox from a place on.
--
-- KEYS  1: the namespace's prefix
-- ARGV  saga id, number of signals to leave out
-- Returns {'signals', signals, consumed event ids}; {'foreign', key, found, expected}.

local id, after = take(), take_number()
local wrong = foreign_saga(id)
if wrong then return wrong end
return { 'signals', redis.call('LRANGE', INBOX .. id, after, -1), consumed_of(id) }
