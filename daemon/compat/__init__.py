"""Payloads and variable names of older systems that Pixmill replaces. Upper layers pass them in."""
