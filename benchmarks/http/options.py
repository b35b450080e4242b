"""How long the benchmark of HTTP runs, and with how much."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The sizes of one run."""

    seconds: float = 60.0  # of jobs at an even pace
    short_s: float = 4.0  # of what runs as fast as it can
    listeners: int = 1000
    events: int = 100
    pictures: int = 1000  # of the archive
    pace: int = 5  # pictures a second that the worker makes; it shares a core with Redis and the clients
