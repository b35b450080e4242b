"""Queues of no-ops: how fast they drain and how soon an item starts, without a provider and beside the peers."""
