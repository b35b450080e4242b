"""Draining queues of no-ops: a replica without a provider, and the peers beside it."""
