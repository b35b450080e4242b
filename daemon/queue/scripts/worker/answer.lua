-- Read the result of an item of the queue `cached`: another item's picture, or the refusal that came while it waited.
-- KEYS  1 prefix
-- ARGS  uid
-- Returns  { picture or '', refusal or '', 1 if the item already waited when the answer was made }; the picture is JSON with
--          the uid of the item that made it (`from`) and that item's `result`
-- One step, because the item's record names the keys that are read. It changes nothing.
-- @include base
-- @include flight
local item = load_item(ARGS.uid)
if not item.flight then return { '', '', 0 } end  -- the record has vanished
local newest_us, picture, refusal, at_us = answer_of(item.flight)
local since_us = tonumber(item.since_us)
return { picture, since_us <= tonumber(newest_us) and refusal or '', since_us <= tonumber(at_us) and 1 or 0 }
