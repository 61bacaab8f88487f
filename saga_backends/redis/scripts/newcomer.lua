-- Sagas that are to be written: shared by `create` and, for the sagas that it spawns, `commit`.

-- Takes one new saga from the arguments: id, name, definition version, fingerprint, kind,
-- [aggregate], [trace], data, tags (JSON), facts (a list), state (opaque), status, lane, active
-- (1 or 0), waits (1 if for a named thing, key if it is queued), rests (1 if it needs neither that nor a due time),
-- [error code], [worker], [lease in us], [delay in us], [at], entries (a list), [this call's own id].
local function take_new()
  local new = {
    id = take(), name = take(), definition = take(), fingerprint = take(), kind = take(),
    aggregate = take_optional(), trace = take_optional(), data = take(), tags = take(),
    facts = take_list(), state = take(), status = take(), lane = take(), active = take(),
    waits = take(), rests = take(), code = take_optional(), worker = take_optional(),
    lease = take_optional(),
  }
  new.due = take_due()
  if new.lease then new.due = now + tonumber(new.lease) end
  new.queued = new.waits == 'key' and new.aggregate
  new.entries = take_list()
  new.written = take_optional()
  return new
end

-- Returns why it cannot be written, or nil. `freed` and `taken` are aggregates that the same
-- script frees and takes.
local function refuse_new(new, freed, taken)
  local wrong = closed(SAGA .. new.id, 'hash', 'HSET') or closed_list(HISTORY .. new.id)
    or (new.due and closed_lane(new.lane, new.kind))
    or (new.due and not new.worker and denied('PUBLISH', WAKE))
    or (has_ended(new.status, new.active) and closed(ENDED, 'zset', 'ZADD'))
    or (new.queued and (closed_queue(new.aggregate) or closed_queues(new.kind)))
    or (new.aggregate and closed(AGGREGATES, 'hash', 'HSET'))
  for n = 1, #new.facts do
    wrong = wrong or closed(BY .. new.facts[n], 'zset', 'ZADD')
  end
  if wrong then return wrong end
  if new.active == '1' and new.aggregate then
    local holder = taken[new.aggregate] or redis.call('HGET', AGGREGATES, new.aggregate)
    if holder and (taken[new.aggregate] or holder ~= freed) then
      return { 'taken', holder, new.aggregate }
    end
    taken[new.aggregate] = new.id
  end
  if new.rests == '0' and new.waits == '0' and not new.due then return { 'undue', new.status } end
end

local function write_new(new)
  local row = {
    'name', new.name, 'definition', new.definition, 'fingerprint', new.fingerprint,
    'kind', new.kind, 'data', new.data, 'tags', new.tags, 'state', new.state,
    'status', new.status, 'lane', new.lane, 'active', new.active, 'waits', new.waits,
    'version', '1', 'fence', new.lease and '1' or '0', 'signals', '0', 'seen', '0',
    'reclaims', '0', 'created', text(now), 'updated', text(now),
  }
  local function optional(field, value)
    if value then
      row[#row + 1] = field
      row[#row + 1] = value
    end
  end
  optional('aggregate', new.aggregate)
  optional('trace', new.trace)
  optional('code', new.code)
  optional('worker', new.worker)
  optional('due', new.due and text(new.due))
  optional('written', new.written)
  redis.call('HSET', SAGA .. new.id, unpack(row))
  append_history(new.id, '1', '-', new.entries)
  if new.aggregate and new.active == '1' then
    redis.call('HSET', AGGREGATES, new.aggregate, new.id)
  end
  for n = 1, #new.facts do redis.call('ZADD', BY .. new.facts[n], text(now), new.id) end
  if has_ended(new.status, new.active) then
    redis.call('ZADD', ENDED, text(now), new.id)
  end
  if new.due then put_due(new.id, new.kind, nil, new.lane, new.due) end
  if not new.worker then wake_if_due(new.due) end
  if new.queued then
    redis.call('ZADD', QUEUE .. new.aggregate, text(now), new.id)
    if call_next(new.aggregate) == new.id then new.due = now end
  end
end
