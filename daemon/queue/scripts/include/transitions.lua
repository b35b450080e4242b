-- The moves that items and groups may make: cause, state before, state after. Scripts take every next state from here and
-- refuse any other move. docs/internals/state-machine.md draws it; a test compares the page, the tables and the scripts.
local FINAL = { succeeded = true, failed = true, cancelled = true, expired = true }
local WAITING = { queued = true, retry_wait = true, throttled = true }

local function from_waiting(to) return { queued = to, retry_wait = to, throttled = to } end

local TRANSITIONS = {
  accepted = { new = 'queued' },
  claimed = from_waiting('running'),
  expired = from_waiting('expired'),
  cancel_order = { queued = 'cancelled', retry_wait = 'cancelled', throttled = 'cancelled', held = 'cancelled' },
  retry_order = { failed = 'queued', cancelled = 'queued', expired = 'queued', held = 'queued' },
  -- The outcomes of settle.lua, and the causes that it derives from them.
  succeeded = { running = 'succeeded' },
  failed = { running = 'failed' },
  cancelled = { running = 'cancelled' },
  held = { running = 'held' },
  released = { running = 'queued' },
  missed = { running = 'queued' },
  in_reserve = { running = 'queued' },
  throttled = { running = 'throttled' },
  retry = { running = 'retry_wait' },
  attempts_exhausted = { running = 'failed' },
  unknown = { running = 'retry_wait' },
  unknown_outcome = { running = 'failed' },
  -- A worker went silent.
  reclaimed = { running = 'running' },
  poison = { running = 'failed' },
}

local ENDS = { 'completed', 'completed_with_errors', 'failed', 'cancelled', 'expired' }
local GROUP_TRANSITIONS = { opened = { new = 'running' }, reopened = {} }
for _, state in ipairs(ENDS) do
  GROUP_TRANSITIONS[state] = { running = state }
  GROUP_TRANSITIONS.reopened[state] = 'running'
end

-- The item's next state; nil if its state does not allow the cause.
local function next_state(cause, state) return TRANSITIONS[cause][state] end
