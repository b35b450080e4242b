"""The demo: one batch from a CSV file, start to finish, in a process of its own, and the figures of how it went."""
