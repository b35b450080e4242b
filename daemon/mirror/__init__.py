"""Copies jobs and batches into PostgreSQL, for SQL: a reader of the events that nothing else waits for."""
