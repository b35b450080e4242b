-- What spares an item of the queue `cached` a call: another item's picture, or the refusal that came while it waited.
-- KEYS  1 prefix
-- ARGS  uid
-- Returns  { picture or '', refusal or '', 1 if the item was there when that was made }; the picture is JSON, with the item
--          that it is `from` and the `result` of that
-- One step, because the item's record names the keys that are read. Nothing is changed.
-- @include base
-- @include flight
local item = load_item(ARGS.uid)
local _, name = flight_of(item)
return name and answer_to(item, name) or { '', '', 0 }
