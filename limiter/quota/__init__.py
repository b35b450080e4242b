"""What a quota is: its limits, how they are written, and published ones."""
