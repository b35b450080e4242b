"""Callers: their keys, their sessions, and what they may do."""
