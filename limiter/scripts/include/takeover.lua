-- @include text
-- @include slices
-- A limit whose kind was changed while it lived: what the books of the former kind know goes into those of the new
-- one, and the former are deleted. What they do not know counts as used; a use that is not known to the µs counts
-- where it is sure to be in every window that it could be in.

-- How each kind tells what it knows, and how each takes over. Made only where a kind has changed, which is hardly ever.
local function changes()
  -- Uses (`at`, `units`) that a former kind knows of, from within a `span`. `all`: it does not know all of them.
  local former = {}

  function former.log(key, now, span, uses)
    local flat = redis.call('ZRANGEBYSCORE', key, '(' .. text(now - span), '+inf', 'WITHSCORES')
    for i = 2, #flat, 2 do uses[#uses + 1] = {at = tonumber(flat[i]), units = 1} end
  end

  function former.slices(key, now, span, uses)
    local flat = redis.call('HGETALL', key)
    local width = tonumber(redis.call('HGET', key, 'width') or 0)
    for i = 1, #flat, 2 do
      local slice, units = tonumber(flat[i]), tonumber(flat[i + 1])
      if slice and (slice + 1) * width > now - span then
        uses[#uses + 1] = {at = (slice + 1) * width, units = units}
        -- In a slice that has not ended it may be at the start as well: no window may miss it.
        if (slice + 1) * width > now then uses[#uses + 1] = {at = math.max(now, slice * width), units = units} end
      end
    end
  end

  function former.tokens(key, now, span, uses)
    local flat = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 1, #flat, 2 do
      local at, units = tonumber(flat[i + 1]), tonumber(string.match(flat[i], ':(%d+)$'))
      -- What was used before its base is not known; a bucket that took over itself and granted nothing has only that.
      local since = tonumber(string.match(flat[i], '^base %S+ %S+ (%S+)$'))
      if since and since > now - span then uses.all = true end
      if units and at > now - span then
        uses[#uses + 1] = {at = at, units = units}
        uses.all = true
      end
    end
  end

  -- A day does not know when in it; so all of it is as late as it can be.
  function former.day(key, now, _, uses)
    local flat = redis.call('HVALS', key)
    for _, units in ipairs(flat) do uses[#uses + 1] = {at = now, units = tonumber(units)} end
  end

  -- Nor does a window whose phase is known.
  former.fixed = function(key, now, _, uses)
    local flat = redis.call('HGETALL', key)
    for i = 1, #flat, 2 do
      if flat[i] ~= 'width' then uses[#uses + 1] = {at = now, units = tonumber(flat[i + 1])} end
    end
  end

  local function in_units(uses, most, visit)
    for _, use in ipairs(uses) do
      for _ = 1, math.min(use.units, most) do visit(use.at) end
    end
  end

  -- How each kind takes over. Of uses that only must have been, `unknown` says since when they are taken to be there.
  local taking = {}

  function taking.window(row, uses, now, unknown)
    local number = 0
    local function add(at)
      number = number + 1
      redis.call('ZADD', row.key, text(at), 'was:' .. number)
    end
    in_units(uses, row.count, add)
    if uses.all then
      for _ = 1, row.count do add(unknown) end
    end
    if number > 0 then keep_for(row.key, row.span) end
  end

  function taking.slices(row, uses, now, unknown)
    local width = math.ceil(row.span / SLICES)
    local function add(at, units)
      redis.call('HINCRBY', row.key, text(math.floor(at / width)), units)
    end
    redis.call('HSET', row.key, 'width', text(width))
    for _, use in ipairs(uses) do add(use.at, use.units) end
    if uses.all then add(unknown, row.count) end
    keep_for(row.key, row.span + width)
  end

  -- A bucket starts empty; it is filled again as fast as it grants.
  function taking.tokens(row, uses, now)
    if #uses == 0 then return end
    redis.call('ZADD', row.key, 0, string.format('base 0 %.0f %.0f', row.span, now))
    keep_for(row.key, row.burst * row.span / row.count)
  end

  -- Whatever was used within a period counts in the present window.
  function taking.fixed(row, uses, now, _, wall)
    local units = uses.all and row.count or 0
    for _, use in ipairs(uses) do
      if use.at > now - row.span then units = units + use.units end
    end
    redis.call('HSET', row.key, 'width', text(row.span), text(math.floor(wall / row.span)), text(units))
    keep_for(row.key, 2 * row.span)
  end

  function taking.day(row, uses, now, _, wall)
    local starts = {}
    for start in string.gmatch(row.extra, '%S+') do starts[#starts + 1] = start end
    for i = 1, #starts - 1 do
      for _, use in ipairs(uses) do
        local at = use.at - now + wall
        if tonumber(starts[i]) <= at and at < tonumber(starts[i + 1]) then
          redis.call('HINCRBY', row.key, starts[i], use.units)
          keep_for(row.key, tonumber(starts[i + 1]) - wall)
        end
      end
    end
  end

  return former, taking
end

-- `keys` are those of the kinds that this unit does not have now. Nothing is done where nothing changed.
local function take_over(kind, row, keys, now, wall, unknown_us)
  if #keys == 0 or redis.call('EXISTS', row.key) == 1 or redis.call('EXISTS', unpack(keys)) == 0 then return end
  local reach = kind == 'day' and 2 * 86400000000 or row.span
  if kind == 'tokens' then reach = row.span * row.burst / row.count end
  local uses = {}
  local former, taking = changes()
  for _, key in ipairs(keys) do former[string.match(key, ':(%l+):%l+$')](key, now, reach, uses) end
  taking[kind](row, uses, now, now - row.span + math.min(row.span, unknown_us), wall)
  redis.call('DEL', unpack(keys))
end
