-- The items that a person's order names: one item, some members or one page of a group's members, in some states. A group
-- that is being deleted takes no order.
-- ARGS  kind (group | item | items), name (uid or gid), states (a list), for a group first (the first member) and page
--       (members), for items names (some members' uids)
-- @include base
-- @include ring
local MEANT = {}
for _, state in ipairs(ARGS.states) do MEANT[state] = true end

-- The uids of the items, and the start of the next page (-1 after the last); nil if there is no such record.
local function named_items()
  if ARGS.kind == 'item' then
    local item = read_fields(item_key(ARGS.name), 'state', 'group', 'deleting')
    if not item.state or item.deleting or redis.call('HEXISTS', group_key(item.group), 'deleting') == 1 then return nil end
    return { ARGS.name }, -1
  end
  local group = read_fields(group_key(ARGS.name), 'state', 'deleting')
  if not group.state or group.deleting then return nil end
  if ARGS.kind == 'items' then return ARGS.names, -1 end
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
