#!lua flags=no-writes
-- Look at a bounded number of sagas, in the order of their creation, and return those that match.
--
-- KEYS  1: the namespace's prefix
-- ARGV  how many to look at, how many to return, place: [created], id ('' for the start);
--       [created after], [created before], [overdue by, in us]; conditions: a number, then for
--       each the facts of which a saga has one (a list); 'rows' or 'count'
-- Returns {'page', now, place: created or '' at the end, id, matches, then for each saga its id
-- and its row unless only counted}; {'foreign', key, found, expected}.

local look, want = take_number(), take_number()
local place, place_id = take_optional(), take()
local created_after, created_before = take_optional(), take_optional()
local overdue = take_optional()
local conditions = {}
for n = 1, take_number() do conditions[n] = take_list() end
local rows = take() == 'rows'

local wrong = foreign(DUE, 'zset') or foreign(BY .. 'created', 'zset')
for n = 1, #conditions do
  for m = 1, #conditions[n] do
    conditions[n][m] = BY .. conditions[n][m]
    wrong = wrong or foreign(conditions[n][m], 'zset')
  end
end
if wrong then return wrong end

-- The smallest set of sagas that all matches are in.
local SORTABLE = 5000
local driver, size = { BY .. 'created' }, redis.call('ZCARD', BY .. 'created')
for n = 1, #conditions do
  local cards = 0
  for m = 1, #conditions[n] do cards = cards + redis.call('ZCARD', conditions[n][m]) end
  if cards < size then driver, size = conditions[n], cards end
end
local late = overdue and text(now - overdue)
if late then
  local cards = redis.call('ZCOUNT', DUE, '-inf', late)
  if cards < size and cards <= SORTABLE then driver, size = nil, cards end
end

local from = '-inf'
if place then from = place end
if created_after and (not place or tonumber(created_after) >= tonumber(place)) then
  from, place = '(' .. created_after, nil
end
local to = created_before and '(' .. created_before or '+inf'

local function is_behind(created, id)
  if not place then return true end
  created = tonumber(created)
  return created > tonumber(place) or (created == tonumber(place) and id > place_id)
end

-- Up to `look` candidates of one index behind the place.
local function candidates_of(key, found)
  local offset, good = 0, 0
  while good < look do
    local page = redis.call('ZRANGEBYSCORE', key, from, to, 'WITHSCORES', 'LIMIT', offset, look)
    for n = 1, #page, 2 do
      if good < look and is_behind(page[n + 1], page[n]) then
        found[#found + 1] = { id = page[n], created = page[n + 1] }
        good = good + 1
      end
    end
    if #page < 2 * look then return false end
    offset = offset + look
  end
  return true
end

local function overdue_candidates(found)
  local ids = redis.call('ZRANGEBYSCORE', DUE, '-inf', late)
  for n = 1, #ids do
    local created = redis.call('ZSCORE', BY .. 'created', ids[n])
    if created and is_behind(created, ids[n])
      and (not created_after or tonumber(created) > tonumber(created_after))
      and (not created_before or tonumber(created) < tonumber(created_before)) then
      found[#found + 1] = { id = ids[n], created = created }
    end
  end
  return #found > look
end

local candidates, more = {}, false
if driver then
  for n = 1, #driver do more = candidates_of(driver[n], candidates) or more end
  more = more or #candidates > look
else
  more = overdue_candidates(candidates)
end
table.sort(candidates, function(a, b)
  local one, two = tonumber(a.created), tonumber(b.created)
  if one ~= two then return one < two end
  return a.id < b.id
end)

local function matches(id)
  for n = 1, #conditions do
    local has = false
    for m = 1, #conditions[n] do
      has = has or redis.call('ZSCORE', conditions[n][m], id)
    end
    if not has then return false end
  end
  if late then
    local due = redis.call('ZSCORE', DUE, id)
    if not due or tonumber(due) > tonumber(late) then return false end
  end
  return not foreign(SAGA .. id, 'hash') and redis.call('HEXISTS', SAGA .. id, 'created') == 1
end

local answer, found, last = { 'page', text(now), '', '', '0' }, 0, nil
for n = 1, math.min(look, #candidates) do
  last = candidates[n]
  if matches(last.id) then
    found = found + 1
    if rows then
      answer[#answer + 1] = last.id
      answer[#answer + 1] = read(last.id)
    end
    if found == want then
      more = more or n < #candidates
      break
    end
  end
end
if more and last then answer[3], answer[4] = last.created, last.id end
answer[5] = text(found)
return answer
