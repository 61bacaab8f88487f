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
local claim = CLAIM .. claim_id
local wrong = closed_list(claim) or denied('PEXPIRE', claim) or closed_zset(DUE)
for n = 1, #kinds do
  wrong = wrong or closed_zset(lane_key('0', kinds[n])) or closed_zset(lane_key('1', kinds[n]))
end
if wrong then return wrong end

-- What this very claim took before, if its answer was lost.
local function taken_before()
  local found, seen = {}, {}
  local ids = redis.call('LRANGE', claim, 0, -1)
  for n = 1, #ids do
    -- One that was lost to others is there twice once the same claim has taken it again.
    if not seen[ids[n]] and not foreign_saga(ids[n]) then
      seen[ids[n]] = true
      local row = redis.call('HMGET', SAGA .. ids[n], 'claim', 'worker', 'reclaimed')
      if row[1] == claim_id and row[2] == worker then
        found[#found + 1] = { id = ids[n], lost = row[3] }
      end
    end
  end
  return found
end

-- Entries of the queues whose saga is gone: cleared away, a bounded number per call.
local CLEARED = 1000
local gone = {}

-- Up to `limit` due sagas of one lane, oldest first. A key that is no saga hides no other: pages
-- grow, so that many of those cost no more than to step over them once.
local function due_in(lane)
  local found = {}
  for k = 1, #kinds do
    local key, offset, size, good = lane_key(lane, kinds[k]), 0, limit, 0
    while good < limit and #gone < CLEARED do
      local page = redis.call('ZRANGEBYSCORE', key, '-inf', text(now), 'WITHSCORES',
        'LIMIT', offset, size)
      for n = 1, #page, 2 do
        if good == limit or #gone == CLEARED then break end
        local id = page[n]
        if not foreign_saga(id) then
          local row = redis.call('HMGET', SAGA .. id, 'version', 'fence', 'worker', 'reclaims',
            'lane')
          if tonumber(row[1]) and tonumber(row[2]) and tonumber(row[4]) and row[5] then
            found[#found + 1] = { id = id, due = tonumber(page[n + 1]), kind = kinds[k], row = row }
            good = good + 1
          elseif redis.call('EXISTS', SAGA .. id) == 0 then
            gone[#gone + 1] = { key = key, id = id }
          end
        end
      end
      if #page < 2 * size then break end
      offset, size = offset + size, size * 2
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
  local saga, row = SAGA .. one.id, one.row
  one.lost = row[3] and '1' or '0'
  local due = now + lease
  redis.call('HSET', saga, 'version', text(row[1] + 1), 'fence', text(row[2] + 1),
    'worker', worker, 'claim', claim_id, 'reclaims', text(row[4] + one.lost),
    'reclaimed', one.lost, 'due', text(due))
  put_due(one.id, one.kind, row[5], row[5], due)
  redis.call('RPUSH', claim, one.id)
end

local taken = taken_before()
if #taken == 0 and #kinds > 0 then
  local picked = pick()
  for n = 1, #picked do
    wrong = wrong or denied('HSET', SAGA .. picked[n].id)
  end
  if wrong then return wrong end
  for n = 1, #gone do
    redis.call('ZREM', gone[n].key, gone[n].id)
    redis.call('ZREM', DUE, gone[n].id)
  end
  for n = 1, #picked do
    hold(picked[n])
    taken[n] = picked[n]
  end
  if #taken > 0 then redis.call('PEXPIRE', claim, memory) end
end
local following = text(now)
if #gone < CLEARED then
  following = redis.call('ZRANGEBYSCORE', DUE, '(' .. text(now), '+inf', 'WITHSCORES',
    'LIMIT', 0, 1)[2]
end
-- As a score it may read 2.5e+17: a whole number is what was promised.
local answer = { 'claimed', text(now), following and text(following) or '' }
for n = 1, #taken do
  answer[#answer + 1] = taken[n].id
  answer[#answer + 1] = read(taken[n].id)
  answer[#answer + 1] = outputs_of(taken[n].id)
  answer[#answer + 1] = taken[n].lost or '0'
end
return answer
