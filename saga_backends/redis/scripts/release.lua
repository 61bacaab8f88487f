#!lua flags=allow-oom
-- Give back what is still the worker's under the fence that it knows.
--
-- KEYS  1: the namespace's prefix
-- ARGV  worker, delay in us, then for each saga its id and fence
-- Returns {'released', how many}; {'foreign', key, found, expected}.

local worker, due = take(), now + take_number()
local wrong = foreign(DUE, 'zset')
if wrong then return wrong end
local released = 0
while argument < #ARGV do
  local id, fence = take(), take()
  local saga = SAGA .. id
  if not foreign(saga, 'hash') then
    local row = redis.call('HMGET', saga, 'worker', 'fence', 'kind', 'lane')
    if row[1] == worker and row[2] == fence and not foreign_lanes(row[3]) then
      redis.call('HDEL', saga, 'worker', 'claim', 'reclaimed')
      redis.call('HSET', saga, 'due', text(due))
      put_due(id, row[3], row[4], row[4], due)
      released = released + 1
    end
  end
end
if released > 0 then wake_if_due(due) end
return { 'released', text(released) }
