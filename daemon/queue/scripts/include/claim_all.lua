-- The claim itself: entries in fair order, until there are enough items or no entries.
-- @include claiming
while #items < ARGS.count and skipped < MOST_SKIPPED do
  local queue = pick_queue()
  if not queue then break end
  local entry, uid = read_one(queue)
  local item = uid and load_item(uid)
  if not item then
    heal(queue)
  elseif item.state == 'running' and item.entry == entry then
    -- The consumer group was lost and is read again from its beginning, so this is the entry of a running item. It stays
    -- pending, so that a reclaim finds it if that item's worker goes silent.
    skipped = skipped + 1
  else
    local is_paused = left_ring(item, queue)
    if starts(item, queue, is_paused) then
      start(item, entry)
    else
      step_over(queue, entry, item.group)
      skipped = skipped + 1
    end
    if not release(route, queue, item.tenant) then in_ring[queue] = in_ring[queue] - 1 end
  end
end

if credits then
  redis.call('HSET', P .. ':lanes:' .. route, 'high', credits.high or 0, 'normal', credits.normal or 0, 'low', credits.low or 0)
end
conclude()
local more = 0
for _, queue in ipairs(QUEUES) do
  if in_ring[queue] > 0 then more = 1 end
end
return { more, lost, items, '0', requested }
