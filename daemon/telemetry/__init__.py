"""Metrics, health pages and logs of a replica."""
