"""Knows whether this replica reaches a provider, and lets one call at a time try while it does not.

A network belongs to a machine, so each replica keeps this for itself: one without a way out stops none of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from daemon.broker.backoff import pause_s

LONGEST_PAUSE_S: Final = 30.0
# The next call tries after this time if nothing is heard of the one before it. A connection takes 10 s at most.
TURN_S: Final = 15.0


class Reach:
    """The way to one account, shared by its routes. Only calls of which no byte was sent count as failures."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause_s: Callable[[int, float], float] = pause_s,
    ) -> None:
        self.failures = 0  # in a row
        self.why = ""  # the last failure, as a sentence
        self._clock = clock
        self._pause_s = pause_s
        self._next_at = 0.0
        self._trying = False

    @property
    def lost(self) -> bool:
        """Whether the last call could not be sent."""
        return self.failures > 0

    @property
    def wait_s(self) -> float:
        """Seconds until the next call may try, 0 while the provider is reached."""
        return max(0.0, self._next_at - self._clock()) if self.lost else 0.0

    def take_turn(self) -> bool:
        """Whether a call may begin now. While the provider is not reached, this is True once a pause."""
        if self.wait_s:
            return False
        if self.lost:
            self._trying, self._next_at = True, self._clock() + TURN_S
        return True

    def failed(self, why: str) -> None:
        """Note a call of which nothing was sent. Calls that fail together count once."""
        if self.wait_s and not self._trying:
            return
        self.failures += 1
        self.why = why
        self._trying = False
        self._next_at = self._clock() + self._pause_s(self.failures - 1, LONGEST_PAUSE_S)

    def ended(self) -> None:
        """Note the end of a run: if it had the turn and neither left nor failed, the next call may try at once."""
        if self._trying:
            self._trying, self._next_at = False, self._clock()

    def reached(self) -> None:
        """Note a call that leaves on an open connection."""
        self.failures, self._trying = 0, False
