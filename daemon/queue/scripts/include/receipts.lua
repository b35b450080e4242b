-- The receipt of an item's task. One that comes from a worker which had lost the item meanwhile waits in `late_receipt`
-- until it is needed: the task is there and may be paid for.
-- @include base

local function has_task(item) return (item.receipt or '') ~= '' or (item.late_receipt or '') ~= '' end

-- Whether an error (JSON) is of our side alone: then the provider's task is still good.
local function is_resumable(text)
  local ok, err = pcall(cjson.decode, text or '')
  return ok and type(err) == 'table' and err.resumable
end

-- The receipt with which an item goes on: its own, else the late one, which becomes its own. '' without any.
local function take_up(item)
  if (item.receipt or '') == '' and (item.late_receipt or '') ~= '' then
    update(item, { receipt = item.late_receipt, late_receipt = '' })
  end
  return item.receipt or ''
end
