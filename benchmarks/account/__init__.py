"""Measures an account as its provider sees it: places in use, polls, and calls that it refuses."""
