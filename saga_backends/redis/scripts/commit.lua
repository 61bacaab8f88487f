#!lua
-- Apply a transition whole, or nothing of it.
--
-- KEYS  1: the namespace's prefix
-- ARGV  saga id, expected version, commit id, seen;
--       state (opaque), status, lane, active (1 or 0), waits (1 if for a named thing,
--       key if it is queued), rests (1 if it needs neither that nor a due time), [error code];
--       lease: 'keep' | 'take', worker, duration in us | 'release', [delay in us], [at];
--       entries (a list); number of signals, each an event id and the signal (opaque);
--       consumed event ids (a list); '' or '=' and tags (JSON) and their facts (a list);
--       number of spawned sagas, each as in newcomer.lua
-- Returns {'committed', version, fence, signals, 1 if the row still stands there else 0};
-- {'unknown'}; {'stale', version}; {'known', event id}; {'taken', holder, aggregate};
-- {'behind', first in the queue, aggregate}; {'undue', status}; {'foreign', key, found, expected}.
-- include: newcomer

local id, expected, commit_id, seen = take(), take(), take(), take_number()
local saga = SAGA .. id

local wrong = closed(saga, 'hash', 'HSET') or closed_list(HISTORY .. id)
  or closed(COMMITS .. id, 'hash', 'HSET')
if wrong then return wrong end
local row = redis.call('HMGET', saga, 'version', 'fence', 'worker', 'due', 'signals', 'status',
  'lane', 'active', 'code', 'kind', 'aggregate', 'created', 'waits')
local version, fence, worker, due = row[1], row[2], row[3], row[4]
local signals, status_before, lane_before, active_before = row[5], row[6], row[7], row[8]
local code_before, kind, aggregate, created = row[9], row[10], row[11], row[12]
if not (version and fence and signals and status_before and lane_before and kind and created) then
  return { 'unknown' }
end
local first = redis.call('HGET', COMMITS .. id, commit_id)
if first then
  local then_version, then_fence = string.match(first, '^(%d+) (%d+)$')
  return { 'committed', then_version, then_fence, signals, version == then_version and '1' or '0' }
end
if version ~= expected then return { 'stale', version } end

local state, status, lane, active = take(), take(), take(), take()
local waits, rests, code = take(), take(), take_optional()
local queued, queued_before = waits == 'key', row[13] == 'key'
local ended, ended_before = has_ended(status, active), has_ended(status_before, active_before)
due = due and tonumber(due)
local lease = take()
local due_before, worker_before = due, worker
if lease == 'take' then
  worker = take()
  due = now + take_number()
  if worker ~= worker_before then fence = text(fence + 1) end
elseif lease == 'release' then
  worker = false
  due = take_due()
end
local entries = take_list()
local arrived, arrivals = {}, take_number()
if arrivals > 0 then
  wrong = closed(EVENTS .. id, 'hash', 'HSET') or closed_list(INBOX .. id)
  if wrong then return wrong end
end
for n = 1, arrivals do
  local event_id = take()
  if arrived[event_id] or redis.call('HEXISTS', EVENTS .. id, event_id) == 1 then
    return { 'known', event_id }
  end
  arrived[event_id] = true
  arrived[n] = { event_id, take() }
end
local consumed, used = {}, take_list()
if #used > 0 then
  wrong = closed(EVENTS .. id, 'hash', 'HSET')
  if wrong then return wrong end
end
for _, event_id in ipairs(used) do
  if arrived[event_id] or redis.call('HEXISTS', EVENTS .. id, event_id) == 1 then
    consumed[#consumed + 1] = event_id
  end
end
local tags, facts, facts_before = take_optional(), {}, {}
if tags then
  facts = take_list()
  for _, tag in ipairs(cjson.decode(redis.call('HGET', saga, 'tags'))) do
    facts_before[#facts_before + 1] = 'tag:' .. tag
  end
end
signals = signals + #arrived
seen = seen + #arrived
if lease == 'release' and not ended and signals > seen then due = now end

if rests == '0' and waits == '0' and not due then return { 'undue', status } end
local moves = due ~= due_before or lane ~= lane_before
wrong = ((lease ~= 'keep' or code_before) and denied('HDEL', saga))
  or (moves and (closed_lane(lane_before, kind)
    or (lane ~= lane_before and closed_lane(lane, kind))))
  or (not worker and due and denied('PUBLISH', WAKE))
  or ((ended or ended_before) and closed_zset(ENDED))
  or (aggregate and closed_hash(AGGREGATES))
  or (aggregate and (active == '0' or queued_before) and closed_queue(aggregate))
  or (tags and (closed_indexes(facts) or closed_indexes(facts_before)))
  or (status ~= status_before and (closed_zset(BY .. 'status:' .. status_before)
    or closed_zset(BY .. 'status:' .. status)))
  or (code ~= (code_before or nil) and ((code and closed_zset(BY .. 'error:' .. code))
    or (code_before and closed_zset(BY .. 'error:' .. code_before))))
if wrong then return wrong end
local freed, taken = nil, {}
if aggregate then
  if active == '0' then
    freed = id
  else
    local holder = redis.call('HGET', AGGREGATES, aggregate)
    if holder and holder ~= id then return { 'taken', holder, aggregate } end
    local first = queued_before and first_in_queue(aggregate)[1]
    if first and first ~= id then return { 'behind', first, aggregate } end
    taken[aggregate] = id
  end
end
local spawned = {}
for _ = 1, take_number() do
  local new = take_new()
  wrong = foreign(SAGA .. new.id, 'hash')
  if wrong then return wrong end
  if redis.call('EXISTS', SAGA .. new.id) == 0 then
    wrong = refuse_new(new, freed, taken)
    if wrong then return wrong end
    spawned[#spawned + 1] = new
  end
end

-- Nothing is refused from here on.
version = text(version + 1)
redis.call('HSET', saga, 'state', state, 'status', status, 'lane', lane, 'active', active,
  'waits', waits, 'version', version, 'fence', fence, 'signals', text(signals), 'seen', text(seen),
  'reclaims', '0', 'updated', text(now))
redis.call('HSET', COMMITS .. id, commit_id, version .. ' ' .. fence)
append_history(id, version, commit_id, entries)
if lease ~= 'keep' then
  redis.call('HDEL', saga, 'claim', 'reclaimed', 'worker', 'due')
  if worker then redis.call('HSET', saga, 'worker', worker) end
  if due then redis.call('HSET', saga, 'due', text(due)) end
end
if moves then put_due(id, kind, lane_before, lane, due) end
if status ~= status_before then
  redis.call('ZREM', BY .. 'status:' .. status_before, id)
  redis.call('ZADD', BY .. 'status:' .. status, created, id)
end
if code ~= (code_before or nil) then
  if code_before then redis.call('ZREM', BY .. 'error:' .. code_before, id) end
  if code then
    redis.call('HSET', saga, 'code', code)
    redis.call('ZADD', BY .. 'error:' .. code, created, id)
  else
    redis.call('HDEL', saga, 'code')
  end
end
if ended then
  redis.call('ZADD', ENDED, text(now), id)
elseif ended_before then
  redis.call('ZREM', ENDED, id)
end
if aggregate and active ~= active_before then
  if active == '1' then
    redis.call('HSET', AGGREGATES, aggregate, id)
  else
    redis.call('HDEL', AGGREGATES, aggregate)
  end
end
if aggregate and queued ~= queued_before then
  if queued then
    redis.call('ZADD', QUEUE .. aggregate, created, id)
  else
    redis.call('ZREM', QUEUE .. aggregate, id)
  end
end
if aggregate and active == '0' then call_next(aggregate) end
for n = 1, #arrived do
  redis.call('HSET', EVENTS .. id, arrived[n][1], '0')
  redis.call('RPUSH', INBOX .. id, text(now) .. ' ' .. arrived[n][2])
end
for n = 1, #consumed do redis.call('HSET', EVENTS .. id, consumed[n], '1') end
if tags then
  for n = 1, #facts_before do redis.call('ZREM', BY .. facts_before[n], id) end
  redis.call('HSET', saga, 'tags', tags)
  for n = 1, #facts do redis.call('ZADD', BY .. facts[n], created, id) end
end
for n = 1, #spawned do write_new(spawned[n]) end
if not worker then wake_if_due(due) end
return { 'committed', version, fence, text(signals), '1' }
