"""Redis itself: clients, their errors, streams, and the embedded server."""
