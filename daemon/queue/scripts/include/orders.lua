-- The items that a person's order names: one item, or one page of a group's members, in some states.
-- ARGS  kind (group | item), name (uid or gid), states (a list), and for a group first (the first member) and page (members)
-- @include base
-- @include ring
local MEANT = {}
for _, state in ipairs(ARGS.states) do MEANT[state] = true end

-- The uids of the items, and the start of the next page (-1 after the last); nil if there is no such record.
local function named_items()
  if ARGS.kind == 'item' then
    if redis.call('EXISTS', item_key(ARGS.name)) == 1 then return { ARGS.name }, -1 end
    return nil
  end
  if redis.call('EXISTS', group_key(ARGS.name)) == 0 then return nil end
  local uids = redis.call('ZRANGE', members_key(ARGS.name), ARGS.first, ARGS.first + ARGS.page - 1)
  return uids, #uids == ARGS.page and ARGS.first + ARGS.page or -1
end

-- The items with these uids; all that can fail is looked at, since the caller writes from here on.
local function load_items(uids)
  local items = {}
  for i, uid in ipairs(uids) do
    items[i] = load_item(uid)
    must_suit_item(items[i])
  end
  return items
end
