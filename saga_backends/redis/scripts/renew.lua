#!lua flags=allow-oom
-- Extend the leases that are still the worker's under the fence that it knows.
--
-- KEYS  1: the namespace's prefix
-- ARGV  worker, lease in us, then for each saga its id and fence
-- Returns {'held', then for each saga that is still held its id and number of signals};
-- {'foreign', key, found, expected}.
-- include: holding

local worker, due = take(), now + take_number()
local held, wrong = take_held(worker)
if wrong then return wrong end
local answer = { 'held' }
for n = 1, #held do
  local one = held[n]
  redis.call('HSET', SAGA .. one.id, 'due', text(due))
  put_due(one.id, one.kind, one.lane, one.lane, due)
  answer[#answer + 1] = one.id
  answer[#answer + 1] = one.signals
end
return answer
