"""Live events: one reader of the stream, a stream of frames for each listener, and waits for the end of work."""
