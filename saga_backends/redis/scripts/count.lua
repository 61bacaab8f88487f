#!lua flags=no-writes
-- Count the sagas with one of some facts, by their indexes alone.
--
-- KEYS  1: the namespace's prefix
-- ARGV  [created after], [created before], [overdue by, in us: then neither facts nor times],
--       facts of which a saga has exactly one (a list)
-- Returns {'count', number}; {'foreign', key, found, expected}.

local created_after, created_before, overdue = take_optional(), take_optional(), take_optional()
local facts = take_list()
local wrong = foreign(DUE, 'zset')
for n = 1, #facts do wrong = wrong or foreign(BY .. facts[n], 'zset') end
if wrong then return wrong end
if overdue then
  return { 'count', text(redis.call('ZCOUNT', DUE, '-inf', text(now - overdue))) }
end
local from = created_after and '(' .. created_after or '-inf'
local to = created_before and '(' .. created_before or '+inf'
local count = 0
for n = 1, #facts do count = count + redis.call('ZCOUNT', BY .. facts[n], from, to) end
return { 'count', text(count) }
