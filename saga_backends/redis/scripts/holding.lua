-- Sagas that a worker believes to hold: shared by `renew` and `release`.

-- Takes ids and fences from the arguments; returns those that the worker does hold under that
-- fence, and what is wrong if one cannot be written. A key that is no saga is not held.
local function take_held(worker)
  local held = {}
  while argument < #ARGV do
    local id, fence = take(), take()
    if not foreign(SAGA .. id, 'hash') then
      local row = redis.call('HMGET', SAGA .. id, 'worker', 'fence', 'kind', 'lane', 'signals')
      if row[1] == worker and row[2] == fence and row[3] and row[4] and row[5] then
        local wrong = closed_hash(SAGA .. id) or closed_queues(row[3])
        if wrong then return held, wrong end
        held[#held + 1] = { id = id, kind = row[3], lane = row[4], signals = row[5] }
      end
    end
  end
  return held, nil
end
