-- What every script shares: the keys of a namespace, the clock, arguments, and the indexes.
--
-- KEYS[1] is the prefix `saga:{<namespace>}:`. Every other key is made from it, so that all of a
-- namespace lies in one slot of a cluster. Times are whole microseconds since 1970 by the server's
-- clock. An argument that may be absent is '' for absent and '=' before its value.
--
--   meta            hash    format -> the layout of all this
--   saga:<id>       hash    the row: what a script compares, and payloads that it never reads
--   history:<id>    list    '<version> <at> <commit id or -> <o with an output, else -><entry>'
--   commits:<id>    hash    commit id -> '<version> <fence>'
--   inbox:<id>      list    '<at> <signal>'
--   events:<id>     hash    event id -> '1' once consumed, before that the call that sent it, or '0'
--   claim:<id>      list    the sagas that this claim took; expires
--   aggregates      hash    aggregate id -> the active saga that holds it
--   queue:<aggregate>  zset  the sagas that wait for it -> their creation
--   due             zset    every saga with a due time or a lease -> when
--   due:<lane>:<kind>  zset    the same by lane and by what a worker must have registered
--   ended           zset    every saga that has ended -> its last change
--   by:<fact>       zset    sagas with an indexed fact -> their creation
--
-- A script checks everything before it writes anything: an error would not undo what came before.
-- So it looks at the type of every key, and at what the user may do to those that it writes.

local prefix = KEYS[1]
local SAGA, HISTORY, COMMITS = prefix .. 'saga:', prefix .. 'history:', prefix .. 'commits:'
local INBOX, EVENTS, CLAIM = prefix .. 'inbox:', prefix .. 'events:', prefix .. 'claim:'
local AGGREGATES, DUE, ENDED = prefix .. 'aggregates', prefix .. 'due', prefix .. 'ended'
local BY, WAKE, QUEUE = prefix .. 'by:', prefix .. 'wake', prefix .. 'queue:'

-- Whether a saga has ended: one that is not active may be queued, or stuck before its turn.
local TERMINAL = { COMPLETED = true, COMPENSATED = true, FAILED = true }
local function has_ended(status, active) return active == '0' and TERMINAL[status] or false end

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function text(number) return string.format('%.0f', number) end

local argument = 0

local function take()
  argument = argument + 1
  return ARGV[argument]
end

local function take_number() return tonumber(take()) end

local function take_optional()
  local value = take()
  if value == '' then return nil end
  return string.sub(value, 2)
end

local function take_list()
  local values = {}
  for n = 1, take_number() do values[n] = take() end
  return values
end

-- Returns what is wrong if a key of ours holds a value that somebody else put there.
local function foreign(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then return { 'foreign', key, found, kind } end
end

local function foreign_saga(id)
  return foreign(SAGA .. id, 'hash') or foreign(HISTORY .. id, 'list')
    or foreign(COMMITS .. id, 'hash') or foreign(INBOX .. id, 'list')
    or foreign(EVENTS .. id, 'hash')
end

-- Returns an error if the user may not do that to the key: an ACL stops a script at the first
-- command that it denies, and what the script wrote before would stay.
local function denied(command, key)
  if not redis.acl_check_cmd(command, key) then
    return { err = 'NOPERM this user may not run ' .. command .. " on '" .. key .. "'" }
  end
end

-- Returns why a script cannot write to a key with a command, or with two.
local function closed(key, kind, command, other)
  return foreign(key, kind) or denied(command, key) or (other and denied(other, key))
end
local function closed_hash(key) return closed(key, 'hash', 'HSET', 'HDEL') end
local function closed_list(key) return closed(key, 'list', 'RPUSH') end
local function closed_zset(key) return closed(key, 'zset', 'ZADD', 'ZREM') end

local function closed_saga(id)
  return closed_hash(SAGA .. id) or closed_list(HISTORY .. id) or closed_hash(COMMITS .. id)
    or closed_list(INBOX .. id) or closed_hash(EVENTS .. id)
end

local function closed_indexes(facts)
  local wrong = closed_hash(AGGREGATES) or closed_zset(ENDED)
  for n = 1, #facts do wrong = wrong or closed_zset(BY .. facts[n]) end
  return wrong
end

local function lane_key(lane, kind) return DUE .. ':' .. lane .. ':' .. kind end

-- The queues of one kind in one lane.
local function closed_lane(lane, kind)
  return closed_zset(DUE) or closed_zset(lane_key(lane, kind))
end

-- The same in both lanes, and the channel on which what is due is told.
local function closed_queues(kind)
  return closed_lane('0', kind) or closed_zset(lane_key('1', kind)) or denied('PUBLISH', WAKE)
end

-- The first in the queue of an aggregate, and the one after it.
local function first_in_queue(aggregate)
  return redis.call('ZRANGEBYSCORE', QUEUE .. aggregate, '-inf', '+inf', 'LIMIT', 0, 2)
end

-- The same for the queue of an aggregate, and for whoever will be its first after one write.
local function closed_queue(aggregate)
  local wrong = foreign(AGGREGATES, 'hash') or closed_zset(QUEUE .. aggregate)
  if wrong then return wrong end
  local first = first_in_queue(aggregate)
  for n = 1, #first do
    local saga = SAGA .. first[n]
    local kind = not foreign(saga, 'hash') and redis.call('HGET', saga, 'kind')
    wrong = wrong or closed_hash(saga) or (kind and closed_queues(kind))
  end
  return wrong
end

-- Takes `delay` and `at`, both optional, and returns the earlier one as a time, or nil.
local function take_due()
  local delay, at = take_optional(), take_optional()
  local due = at and tonumber(at)
  if delay then
    local later = now + tonumber(delay)
    if not due or later < due then due = later end
  end
  return due
end

-- Moves a saga's entries in the queues; `due` is a number, or nil to take it out.
local function put_due(id, kind, lane_before, lane, due)
  if lane_before and (lane_before ~= lane or not due) then
    redis.call('ZREM', lane_key(lane_before, kind), id)
  end
  if due then
    redis.call('ZADD', DUE, text(due), id)
    redis.call('ZADD', lane_key(lane, kind), text(due), id)
  else
    redis.call('ZREM', DUE, id)
  end
end

local function wake_if_due(due)
  if due and due <= now then redis.call('PUBLISH', WAKE, '1') end
end

-- Makes the first in the queue of an aggregate due, unless a saga has the aggregate; returns it.
local function call_next(aggregate)
  if redis.call('HGET', AGGREGATES, aggregate) then return end
  local first = first_in_queue(aggregate)[1]
  if not first then return end
  local row = redis.call('HMGET', SAGA .. first, 'worker', 'due', 'kind', 'lane')
  local worker, due, kind, lane = row[1], row[2] and tonumber(row[2]), row[3], row[4]
  if worker or not kind or (due and due <= now) then return end
  redis.call('HSET', SAGA .. first, 'due', text(now))
  put_due(first, kind, lane, lane, now)
  wake_if_due(now)
  return first
end

local function append_history(id, version, commit_id, entries)
  local head = version .. ' ' .. text(now) .. ' ' .. commit_id .. ' '
  for n = 1, #entries do redis.call('RPUSH', HISTORY .. id, head .. entries[n]) end
end

-- Returns the history entries that carry an output, each after its number.
local function outputs_of(id)
  local found = {}
  local entries = redis.call('LRANGE', HISTORY .. id, 0, -1)
  for n = 1, #entries do
    if string.match(entries[n], '^%S+ %S+ %S+ (.)') == 'o' then
      found[#found + 1] = n
      found[#found + 1] = entries[n]
    end
  end
  return found
end

-- Returns the ids of the events that the saga has used up.
local function consumed_of(id)
  local found = {}
  local events = redis.call('HGETALL', EVENTS .. id)
  for n = 1, #events, 2 do
    if events[n + 1] == '1' then found[#found + 1] = events[n] end
  end
  return found
end

-- Returns the row, in the order in which answers.py takes it apart.
local function read(id)
  return redis.call('HMGET', SAGA .. id, 'name', 'definition', 'fingerprint', 'aggregate', 'trace',
    'data', 'tags', 'state', 'version', 'fence', 'worker', 'due', 'signals', 'seen', 'reclaims',
    'created', 'updated')
end
