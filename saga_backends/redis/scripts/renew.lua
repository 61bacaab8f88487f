#!lua flags=allow-oom
-- Extend the leases that are still the worker's under the fence that it knows.
--
-- KEYS  1: the namespace's prefix
-- ARGV  worker, lease in us, then for each saga its id and fence
-- Returns {'held', then for each saga that is still held its id and number of signals};
-- {'foreign', key, found, expected}.

local worker, due = take(), now + take_number()
local wrong = foreign(DUE, 'zset')
if wrong then return wrong end
local answer = { 'held' }
while argument < #ARGV do
  local id, fence = take(), take()
  local saga = SAGA .. id
  if not foreign(saga, 'hash') then
    local row = redis.call('HMGET', saga, 'worker', 'fence', 'kind', 'lane', 'signals')
    if row[1] == worker and row[2] == fence and not foreign_lanes(row[3]) then
      redis.call('HSET', saga, 'due', text(due))
      put_due(id, row[3], row[4], row[4], due)
      answer[#answer + 1] = id
      answer[#answer + 1] = row[5]
    end
  end
end
return answer
