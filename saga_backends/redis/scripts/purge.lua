#!lua flags=allow-oom
-- Delete sagas that ended long ago, with all that they have.
--
-- KEYS  1: the namespace's prefix
-- ARGV  for how long they must have ended, in us; how many to look at; of which name, if of one
--       only, and how many of that name to pass over, oldest first: they have not ended so long ago
-- Returns {'purged', how many, how many were looked at, how many of these were kept};
-- {'foreign', key, found, expected}.

local until_then, look = text(now - take_number()), take_number()
local name, passed = take_optional(), take_number()
-- What ended so long ago was created before that.
local source = name and BY .. 'name:' .. name or ENDED
local wrong = closed_zset(ENDED) or closed_zset(source)
if wrong then return wrong end
local ids = redis.call('ZRANGEBYSCORE', source, '-inf', until_then, 'LIMIT', passed, look)

local function facts_of(row)
  local facts = { 'created', 'name:' .. row[1], 'definition:' .. row[2], 'status:' .. row[3] }
  if row[4] then facts[#facts + 1] = 'aggregate:' .. row[4] end
  if row[5] then facts[#facts + 1] = 'error:' .. row[5] end
  local tags = cjson.decode(row[6])
  for n = 1, #tags do facts[#facts + 1] = 'tag:' .. tags[n] end
  return facts
end

local gone, rows = {}, {}
for n = 1, #ids do
  local id = ids[n]
  wrong = foreign(SAGA .. id, 'hash')
  if wrong then return wrong end
  local row = redis.call('HMGET', SAGA .. id, 'name', 'definition', 'status', 'aggregate',
    'code', 'tags', 'kind', 'active', 'updated')
  local old = row[1] and has_ended(row[3], row[8]) and tonumber(row[9]) <= tonumber(until_then)
  if old or not name then
    for _, kept in ipairs({ SAGA, HISTORY, COMMITS, INBOX, EVENTS }) do
      wrong = wrong or denied('UNLINK', kept .. id)
    end
    if row[1] then
      wrong = wrong or closed_indexes(facts_of(row)) or closed_queues(row[7])
      rows[id] = row
    end
    if wrong then return wrong end
    gone[#gone + 1] = id
  end
end

local purged = 0
for n = 1, #gone do
  local id = gone[n]
  local row = rows[id]
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
return { 'purged', text(purged), text(#ids), text(#ids - #gone) }
