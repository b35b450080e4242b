"""Simulates the limiter, and strategies without a limiter, in virtual time."""
