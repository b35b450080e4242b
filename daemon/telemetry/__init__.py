"""What a replica shows of itself: metrics, health, logs."""
