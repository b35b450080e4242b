"""Faults on demand: what the simulator does to the next calls instead of its work."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """What goes wrong. The first group turns a call away at the door; the second hits admitted calls."""

    RATE_LIMIT = "rate_limit"  # 429; with Retry-After if the fault has retry_after_s
    CONCURRENCY = "concurrency"  # 429 that names parallel calls
    BILLING = "billing"  # 429 that means a spent balance
    OVERLOADED = "overloaded"  # 503
    AUTH = "auth"  # 401

    SERVER_ERROR = "server_error"  # 500, not charged
    BAD_GATEWAY = "bad_gateway"  # 502 with an HTML page; the picture was made and charged
    HANG = "hang"  # accepted and charged, never answered
    DROP = "drop"  # accepted and charged, then the connection is cut
    TRUNCATE = "truncate"  # 200 and charged, but the body breaks off
    EMPTY = "empty"  # 200 without a picture
    WRONG_TYPE = "wrong_type"  # 200 with a web page
    NOT_A_PICTURE = "not_a_picture"  # 200 with base64 of something else
    MODERATION = "moderation"  # 400 moderation_blocked


AT_THE_DOOR = frozenset(
    {
        FaultKind.RATE_LIMIT,
        FaultKind.CONCURRENCY,
        FaultKind.BILLING,
        FaultKind.OVERLOADED,
        FaultKind.AUTH,
    }
)
CHARGED = frozenset({FaultKind.BAD_GATEWAY, FaultKind.HANG, FaultKind.DROP, FaultKind.TRUNCATE})


@dataclass(slots=True)
class Fault:
    """A fault for the next `count` calls whose prompt contains `prompt`."""

    kind: FaultKind
    count: int = 1
    retry_after_s: float | None = None
    prompt: str = ""


class Faults:
    """The faults that are waiting, oldest first."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Do `fault` to the next calls that it fits."""
        if fault.count < 1:
            raise ValueError("A fault needs a count of 1 or more.")
        self._waiting.append(fault)

    def clear(self) -> None:
        """Forget all that are left."""
        self._waiting.clear()

    def take(self, prompt: str, *, at_the_door: bool) -> Fault | None:
        """The fault for a call with this prompt, used up by one; None for an undisturbed call."""
        for fault in self._waiting:
            if (fault.kind in AT_THE_DOOR) is at_the_door and fault.prompt in prompt:
                fault.count -= 1
                if not fault.count:
                    self._waiting.remove(fault)
                return fault
        return None
