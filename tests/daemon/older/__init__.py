"""The queue as it was before callbacks and pauses: its scripts and their typed calls, kept as they were.

A replica of that version may run beside one of today (docs/operating.md says what that promises); test_side_by_side.py
runs them so. When a version is released, its files take the place of these.
"""
