"""Turns stream entries into accepted work."""
