-- The receipt of an item's task. A receipt from a worker that had lost the item waits in `late_receipt` until it is needed,
-- since that task may be paid for.
-- @include base

local function has_task(item) return (item.receipt or '') ~= '' or (item.late_receipt or '') ~= '' end

-- Whether a waiting item has a call: a task, or an intent that its worker handed in after a loss. It does not expire, since
-- `expired` reports that nothing was sent.
local function has_call(item) return has_task(item) or (item.intent_us or '') ~= '' end

-- Whether an error (JSON) is only on our side, so that the provider's task is still good.
local function is_resumable(text)
  local ok, err = pcall(cjson.decode, text or '')
  return ok and type(err) == 'table' and err.resumable
end

-- The receipt that an item goes on with: its own, else the late one, which becomes its own; '' if there is none.
local function take_up(item)
  if (item.receipt or '') == '' and (item.late_receipt or '') ~= '' then
    update(item, { receipt = item.late_receipt, late_receipt = '' })
  end
  return item.receipt or ''
end
