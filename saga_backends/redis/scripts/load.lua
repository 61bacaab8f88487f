#!lua flags=no-writes
-- Read one saga with its outputs.
--
-- KEYS  1: the namespace's prefix
-- ARGV  saga id
-- Returns {'saga', now, row, outputs}; {'unknown'}; {'foreign', key, found, expected}.

local id = take()
local wrong = foreign_saga(id)
if wrong then return wrong end
if redis.call('EXISTS', SAGA .. id) == 0 then return { 'unknown' } end
return { 'saga', text(now), read(id), outputs_of(id) }
