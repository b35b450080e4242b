"""Connects to the Redis of an installation, and explains its errors."""
