"""Reads batches from files of people, and writes results as files: a directory, or a zip archive."""
