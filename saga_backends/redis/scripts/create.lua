#!lua
-- Write a new saga, or answer with the one that has its id.
--
-- KEYS  1: the namespace's prefix
-- ARGV  one new saga, see newcomer.lua; times in microseconds
-- Returns {'created', now, due or ''}; {'exists', now, row, outputs, 1 if this very call has written
-- it, whose first answer was lost, else 0}; {'taken', holder, aggregate}; {'undue', status}; {'foreign', key, found, expected}.
-- include: newcomer

local new = take_new()
local wrong = foreign(SAGA .. new.id, 'hash')
if wrong then return wrong end
if redis.call('EXISTS', SAGA .. new.id) == 1 then
  wrong = foreign(HISTORY .. new.id, 'list')
  if wrong then return wrong end
  local ours = new.written and redis.call('HGET', SAGA .. new.id, 'written') == new.written
  return { 'exists', text(now), read(new.id), outputs_of(new.id), ours and '1' or '0' }
end
wrong = refuse_new(new, nil, {})
if wrong then return wrong end
write_new(new)
return { 'created', text(now), new.due and text(new.due) or '' }
