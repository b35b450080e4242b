"""Reads requests: bodies, parameters, uploads, and the id of the work that a request names."""
