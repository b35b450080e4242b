"""Signed messages to the addresses that jobs name."""
