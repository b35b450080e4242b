"""Live events: one reader of the events stream, and a stream of frames for each listener."""
