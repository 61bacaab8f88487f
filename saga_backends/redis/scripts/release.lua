#!lua flags=allow-oom
-- Give back what is still the worker's under the fence that it knows.
--
-- KEYS  1: the namespace's prefix
-- ARGV  worker, delay in us, then for each saga its id and fence
-- Returns {'released', how many}; {'foreign', key, found, expected}.
-- include: holding

local worker, due = take(), now + take_number()
local held, wrong = take_held(worker)
if wrong then return wrong end
for n = 1, #held do
  local one = held[n]
  redis.call('HDEL', SAGA .. one.id, 'worker', 'claim', 'reclaimed')
  redis.call('HSET', SAGA .. one.id, 'due', text(due))
  put_due(one.id, one.kind, one.lane, one.lane, due)
end
if #held > 0 then wake_if_due(due) end
return { 'released', text(#held) }
