"""The calls that a simulated provider refused, with what came before each: evidence for the reason of a 429."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class Refusal:
    """A refused call. Times are the kernel's arrivals, in monotonic seconds."""

    call: Mapping[str, Any]
    earlier: Sequence[Mapping[str, Any]]  # the admitted calls before it, the nearest one first

    @property
    def at_s(self) -> float:
        return float(self.call["at_s"])

    @property
    def distances_s(self) -> list[float]:
        """How long before it each of the earlier calls arrived."""
        return [self.at_s - call["at_s"] for call in self.earlier]

    @property
    def handled_late_s(self) -> float:
        """How long the provider took to come to the call: its own lateness, which counts for nothing."""
        return float(self.call["handled_at_s"]) - self.at_s

    def text(self, since_s: float) -> str:
        """In a few words; its arrival is counted from `since_s`."""
        distances = ", ".join(f"{distance_s:.3f}" for distance_s in self.distances_s)
        return (
            f"{self.call['prompt']!r} arrived at {self.at_s - since_s:.3f} s (refused for {self.call['refused']}, "
            f"handled {self.handled_late_s * 1000:.1f} ms later); calls before it arrived {distances} s earlier"
        )


def refusals(entries: Sequence[Mapping[str, Any]], before: int) -> list[Refusal]:
    """Each 429 of a ledger, with the last `before` calls of its account that were admitted."""
    calls = sorted(entries, key=lambda call: call["at_s"])
    found = []
    for place, call in enumerate(calls):
        if call["status"] == TOO_MANY_REQUESTS:
            admitted = [other for other in calls[:place] if other["admitted"] and other["key"] == call["key"]]
            found.append(Refusal(call, admitted[::-1][:before]))
    return found


def latest_handled_s(entries: Sequence[Mapping[str, Any]]) -> float:
    """The longest time from an arrival to the moment at which the provider came to it."""
    return max((call["handled_at_s"] - call["at_s"] for call in entries), default=0.0)
