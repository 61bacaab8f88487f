#!lua
-- Take due sagas and hold them for a while.
--
-- KEYS  1: the namespace's prefix
-- ARGV  worker, claim id, limit, lease in us, favoured lane, for how long the claim is remembered
--       in ms, kinds (a list)
-- Returns {'claimed', now, time at which the next saga falls due or '', then for each saga its id,
-- its row, its outputs and 1 if a lease had expired else 0}; {'foreign', key, found, expected}.

local worker, claim_id, limit, lease = take(), take(), take_number(), take_number()
local favoured, memory, kinds = take(), take(), take_list()
local wrong = foreign(CLAIM .. claim_id, 'list') or foreign(DUE, 'zset')
for n = 1, #kinds do wrong = wrong or foreign_lanes(kinds[n]) end
if wrong then return wrong end

-- What this very claim took before, if its answer was lost.
local function taken_before()
  local found = {}
  local ids = redis.call('LRANGE', CLAIM .. claim_id, 0, -1)
  for n = 1, #ids do
    local row = redis.call('HMGET', SAGA .. ids[n], 'claim', 'worker')
    if row[1] == claim_id and row[2] == worker then found[#found + 1] = ids[n] end
  end
  return found
end

-- Up to `limit` due sagas of one lane, oldest first. A key that is no saga hides no other.
local function due_in(lane)
  local found = {}
  for k = 1, #kinds do
    local key, offset, good = lane_key(lane, kinds[k]), 0, 0
    while good < limit do
      local page = redis.call('ZRANGEBYSCORE', key, '-inf', text(now), 'WITHSCORES',
        'LIMIT', offset, limit)
      for n = 1, #page, 2 do
        if good < limit and not foreign_saga(page[n])
          and redis.call('EXISTS', SAGA .. page[n]) == 1 then
          found[#found + 1] = { id = page[n], due = tonumber(page[n + 1]), kind = kinds[k] }
          good = good + 1
        end
      end
      if #page < 2 * limit then break end
      offset = offset + limit
    end
  end
  table.sort(found, function(a, b)
    if a.due ~= b.due then return a.due < b.due end
    return a.id < b.id
  end)
  return found
end

local function pick()
  local first, second = due_in(favoured), due_in(favoured == '1' and '0' or '1')
  local share = math.max(math.floor((limit + 1) / 2), limit - #second)
  local picked = {}
  for n = 1, math.min(share, #first) do picked[#picked + 1] = first[n] end
  for n = 1, math.min(limit - #picked, #second) do picked[#picked + 1] = second[n] end
  return picked
end

local function hold(one)
  local saga = SAGA .. one.id
  local row = redis.call('HMGET', saga, 'version', 'fence', 'worker', 'reclaims', 'lane')
  local lost = row[3] and 1 or 0
  local due = now + lease
  redis.call('HSET', saga, 'version', text(row[1] + 1), 'fence', text(row[2] + 1),
    'worker', worker, 'claim', claim_id, 'reclaims', text(row[4] + lost),
    'reclaimed', lost, 'due', text(due))
  put_due(one.id, one.kind, row[5], row[5], due)
  redis.call('RPUSH', CLAIM .. claim_id, one.id)
end

local ids = taken_before()
if #ids == 0 and #kinds > 0 then
  local picked = pick()
  for n = 1, #picked do
    hold(picked[n])
    ids[n] = picked[n].id
  end
  if #ids > 0 then redis.call('PEXPIRE', CLAIM .. claim_id, memory) end
end
local following = redis.call('ZRANGEBYSCORE', DUE, '(' .. text(now), '+inf', 'WITHSCORES',
  'LIMIT', 0, 1)
local answer = { 'claimed', text(now), following[2] or '' }
for n = 1, #ids do
  answer[#answer + 1] = ids[n]
  answer[#answer + 1] = read(ids[n])
  answer[#answer + 1] = outputs_of(ids[n])
  answer[#answer + 1] = redis.call('HGET', SAGA .. ids[n], 'reclaimed') or '0'
end
return answer
