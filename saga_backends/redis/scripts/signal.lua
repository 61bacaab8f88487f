#!lua
-- Append a signal to a saga's inbox, once per event id, and make a saga that rests due.
--
-- KEYS  1: the namespace's prefix
-- ARGV  saga id, event id, signal (opaque), this call's own id
-- Returns {'kept', 1 if somebody holds the saga else 0}, {'duplicate', held} or {'ended', held};
-- {'unknown'}; {'foreign', key, found, expected}.

local id, event_id, signal, written = take(), take(), take(), take()
local saga = SAGA .. id
local wrong = closed(saga, 'hash', 'HSET') or closed_list(INBOX .. id)
  or closed(EVENTS .. id, 'hash', 'HSET')
if wrong then return wrong end
local row = redis.call('HMGET', saga, 'worker', 'active', 'due', 'waits', 'kind', 'lane', 'signals',
  'status')
local worker, active, due, waits, kind, lane = row[1], row[2], row[3], row[4], row[5], row[6]
if not (active and kind and lane and row[7]) then return { 'unknown' } end
local held = worker and '1' or '0'
local before = redis.call('HGET', EVENTS .. id, event_id)
-- The first answer to this very call may have been lost.
if before == written then return { 'kept', held } end
if before then return { 'duplicate', held } end
if has_ended(row[8], active) then return { 'ended', held } end
local falls_due = not worker and waits ~= 'key' and (due or waits == '1')
wrong = falls_due and (closed_lane(lane, kind) or denied('PUBLISH', WAKE))
if wrong then return wrong end

redis.call('HSET', EVENTS .. id, event_id, written)
redis.call('RPUSH', INBOX .. id, text(now) .. ' ' .. signal)
redis.call('HSET', saga, 'signals', text(row[7] + 1))
if falls_due then
  redis.call('HSET', saga, 'due', text(now))
  put_due(id, kind, lane, lane, now)
  wake_if_due(now)
end
return { 'kept', held }
