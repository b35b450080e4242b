-- A receipt may come from a worker that had lost its item meanwhile (it was stopped, or cut off, for longer than its
-- lease): the task is there and may be paid for. It waits in `late_receipt` of the record until it is needed.

-- Whether a record has the receipt of a task, its own or a late one.
local function has_task(receipt, late) return (receipt or '') ~= '' or (late or '') ~= '' end

-- Whether an error (JSON) is of our side alone: then the provider's task is still good.
local function is_resumable(text)
  local ok, err = pcall(cjson.decode, text or '')
  return ok and type(err) == 'table' and err.resumable
end

-- The receipt with which an item goes on: its own, else the late one, which is thereby its own.
local function take_up(key, receipt, late)
  receipt, late = receipt or '', late or ''
  if receipt ~= '' or late == '' then return receipt end
  redis.call('HSET', key, 'receipt', late, 'late_receipt', '')
  return late
end
