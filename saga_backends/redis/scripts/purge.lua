#!lua flags=allow-oom
-- Delete sagas that ended long ago, with all that they have.
--
-- KEYS  1: the namespace's prefix
-- ARGV  for how long they must have ended, in us; how many at most
-- Returns {'purged', how many, how many were looked at}; {'foreign', key, found, expected}.

local until_then, limit = text(now - take_number()), take_number()
local wrong = closed_zset(ENDED)
if wrong then return wrong end
local ids = redis.call('ZRANGEBYSCORE', ENDED, '-inf', until_then, 'LIMIT', 0, limit)

local function facts_of(row)
  local facts = { 'created', 'name:' .. row[1], 'definition:' .. row[2], 'status:' .. row[3] }
  if row[4] then facts[#facts + 1] = 'aggregate:' .. row[4] end
  if row[5] then facts[#facts + 1] = 'error:' .. row[5] end
  local tags = cjson.decode(row[6])
  for n = 1, #tags do facts[#facts + 1] = 'tag:' .. tags[n] end
  return facts
end

local rows = {}
for n = 1, #ids do
  wrong = foreign(SAGA .. ids[n], 'hash')
  for _, kept in ipairs({ SAGA, HISTORY, COMMITS, INBOX, EVENTS }) do
    wrong = wrong or denied('UNLINK', kept .. ids[n])
  end
  if wrong then return wrong end
  local row = redis.call('HMGET', SAGA .. ids[n], 'name', 'definition', 'status', 'aggregate',
    'code', 'tags', 'kind')
  if row[1] then
    wrong = closed_indexes(facts_of(row)) or closed_queues(row[7])
    if wrong then return wrong end
    rows[n] = row
  end
end

local purged = 0
for n = 1, #ids do
  local id, row = ids[n], rows[n]
  if row then
    local facts = facts_of(row)
    for m = 1, #facts do redis.call('ZREM', BY .. facts[m], id) end
    put_due(id, row[7], '0', '0', nil)
    put_due(id, row[7], '1', '1', nil)
    purged = purged + 1
  end
  redis.call('ZREM', ENDED, id)
  redis.call('UNLINK', SAGA .. id, HISTORY .. id, COMMITS .. id, INBOX .. id, EVENTS .. id)
end
return { 'purged', text(purged), text(#ids) }
