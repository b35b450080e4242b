"""What the HTTP gateway can do, and what it costs."""
