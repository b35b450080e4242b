"""What one item costs: its time to the first byte, its scripts, its bytes in Redis, its picture."""
