"""Batches: their bodies, their acceptance, their lists, their summary and their deletion."""
