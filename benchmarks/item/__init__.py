"""Measures the cost of one item: its time to the first byte, its scripts, its bytes in Redis, its picture."""
