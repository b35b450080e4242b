"""Learns about quotas from the answers of a provider."""
