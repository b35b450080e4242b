-- Read the result of an item of the queue `cached`: another item's picture, or the refusal that came while it waited.
-- KEYS  1 prefix
-- ARGS  uid
-- Returns  { picture or '', refusal or '', 1 if the item already waited when the answer was made }; the picture is JSON with
--          the uid of the item that made it (`from`) and that item's `result`
-- One step, because the item's record names the keys that are read. It changes nothing.
-- @include base
-- @include flight
local item = load_item(ARGS.uid)
local _, name = flight_of(item)
return name and answer_to(item, name) or { '', '', 0 }
