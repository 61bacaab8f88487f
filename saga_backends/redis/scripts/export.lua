#!lua flags=no-writes
-- Read everything about one saga, as of one moment.
--
-- KEYS  1: the namespace's prefix
-- ARGV  saga id
-- Returns {'saga', now, row, entries, signals, consumed event ids}; {'unknown'}; {'foreign', key,
-- found, expected}.

local id = take()
local wrong = foreign_saga(id)
if wrong then return wrong end
if redis.call('EXISTS', SAGA .. id) == 0 then return { 'unknown' } end
return {
  'saga', text(now), read(id), redis.call('LRANGE', HISTORY .. id, 0, -1),
  redis.call('LRANGE', INBOX .. id, 0, -1), consumed_of(id),
}
