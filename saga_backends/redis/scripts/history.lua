#!lua flags=no-writes
-- Read a page of a saga's history.
--
-- KEYS  1: the namespace's prefix
-- ARGV  saga id, number of entries to leave out, how many to read
-- Returns {'entries', entries}; {'foreign', key, found, expected}.

local id, after, limit = take(), take_number(), take_number()
local wrong = foreign(HISTORY .. id, 'list')
if wrong then return wrong end
if limit < 1 then return { 'entries', {} } end
return { 'entries', redis.call('LRANGE', HISTORY .. id, after, after + limit - 1) }
