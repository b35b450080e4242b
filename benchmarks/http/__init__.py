"""Measures the HTTP gateway and its cost."""
