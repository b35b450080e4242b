-- What spares an item of the queue `cached` a call: another item's picture, or the refusal that came while it waited.
-- KEYS  1 prefix
-- ARGS  uid
-- Returns  { picture or '', refusal or '', 1 if the item was there when that was made }; the picture is JSON, with the item
--          that it is `from` and the `result` of that
-- One step, because the item's record names the keys that are read. Nothing is changed.
-- @include base
-- @include flight

local picture, refusal, has_waited = answer_to(load_item(ARGS.uid))
return { picture or '', refusal or '', has_waited and 1 or 0 }
