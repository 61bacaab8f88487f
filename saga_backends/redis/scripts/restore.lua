#!lua
-- Write an exported saga as it was.
--
-- KEYS  1: the namespace's prefix
-- ARGV  saga id, this write's own id, kind, status, lane, active (1 or 0), waits, rests,
--       [aggregate], [error code], [due, a time], created and updated (times), fence; facts (a
--       list); row (a list of fields and values); entries with version, time and commit (a
--       list); commit ids, each before its version (a list); event ids (a list), signals with
--       their time (a list), consumed event ids (a list)
-- Returns {'restored'}; {'exists'}; {'taken', holder, aggregate}; {'undue', status};
-- {'foreign', key, found, expected}.

local id, write_id, kind = take(), take(), take()
local status, lane, active, waits, rests = take(), take(), take(), take(), take()
local aggregate, code, due = take_optional(), take_optional(), take_optional()
local created, updated, fence = take(), take(), take()
local facts, row, entries, commits = take_list(), take_list(), take_list(), take_list()
local event_ids, signals, consumed = take_list(), take_list(), take_list()
local saga = SAGA .. id

local queued = waits == 'key' and aggregate
local wrong = closed_saga(id) or closed_indexes(facts) or closed_queues(kind)
  or (queued and closed_queue(aggregate))
if wrong then return wrong end
if redis.call('EXISTS', saga) == 1 then
  -- The answer to this very write may have been lost.
  if redis.call('HGET', saga, 'written') == write_id then return { 'restored' } end
  return { 'exists' }
end
if active == '1' and aggregate then
  local holder = redis.call('HGET', AGGREGATES, aggregate)
  if holder then return { 'taken', holder, aggregate } end
end
if rests == '0' and waits == '0' and not due then return { 'undue', status } end

redis.call('HSET', saga, 'written', write_id, 'kind', kind, 'status', status, 'lane', lane,
  'active', active, 'waits', waits)
for n = 1, #row, 2 do redis.call('HSET', saga, row[n], row[n + 1]) end
if code then redis.call('HSET', saga, 'code', code) end
if due then
  redis.call('HSET', saga, 'due', due)
  put_due(id, kind, nil, lane, tonumber(due))
end
if aggregate then
  redis.call('HSET', saga, 'aggregate', aggregate)
  if active == '1' then redis.call('HSET', AGGREGATES, aggregate, id) end
end
for n = 1, #facts do redis.call('ZADD', BY .. facts[n], created, id) end
if has_ended(status, active) then redis.call('ZADD', ENDED, updated, id) end
if queued then
  redis.call('ZADD', QUEUE .. aggregate, created, id)
  call_next(aggregate)
end
for n = 1, #entries do redis.call('RPUSH', HISTORY .. id, entries[n]) end
for n = 1, #commits, 2 do
  redis.call('HSET', COMMITS .. id, commits[n], commits[n + 1] .. ' ' .. fence)
end
for n = 1, #signals do redis.call('RPUSH', INBOX .. id, signals[n]) end
for n = 1, #event_ids do redis.call('HSET', EVENTS .. id, event_ids[n], '0') end
for n = 1, #consumed do redis.call('HSET', EVENTS .. id, consumed[n], '1') end
return { 'restored' }
