"""Faults on demand, for the next calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class FaultKind(StrEnum):
    """Kinds of faults. The first group turns a call away at the door; the second hits admitted calls."""

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
    ERROR_INSIDE = "error_inside"  # 200 with an error in its body, not charged
    WITHHELD = "withheld"  # the picture was made and is kept back; charged where the provider does so
    WRONG_TYPE = "wrong_type"  # 200 with a web page
    NOT_A_PICTURE = "not_a_picture"  # 200 with base64 of something else
    MODERATION = "moderation"  # 400 moderation_blocked

    # Only for wires with tasks.
    TASK_FAILED = "task_failed"  # accepted, and ends without a picture
    TASK_MODERATED = "task_moderated"  # accepted, and the picture is kept back
    TASK_STUCK = "task_stuck"  # accepted, and never ends
    TASK_LOST = "task_lost"  # accepted, and unknown to every poll; its picture is made and charged
    URL_EXPIRED = "url_expired"  # done, but the picture's address is dead
    SLOW_POLL = "slow_poll"  # the poll is answered after `delay_s`


# The groups, by the order of their definition.
_ALL = list(FaultKind)
AT_THE_DOOR = frozenset(_ALL[: _ALL.index(FaultKind.SERVER_ERROR)])
_TASKS_ONLY = frozenset(_ALL[_ALL.index(FaultKind.TASK_FAILED) :])
AFTER_THE_DOOR = frozenset(_ALL) - AT_THE_DOOR - _TASKS_ONLY
# For a task NOT_A_PICTURE means that the address leads to something else.
OF_TASKS = _TASKS_ONLY - {FaultKind.SLOW_POLL} | {FaultKind.NOT_A_PICTURE}
# Faults of the answer that should be a receipt; after a CHARGED one the task has begun.
TO_SUBMITS = AFTER_THE_DOOR - {FaultKind.NOT_A_PICTURE, FaultKind.ERROR_INSIDE, FaultKind.WITHHELD}
CHARGED = frozenset({FaultKind.BAD_GATEWAY, FaultKind.HANG, FaultKind.DROP, FaultKind.TRUNCATE})


@dataclass(slots=True)
class Fault:
    """A fault for the next `count` calls whose prompt contains `prompt`; with `polls`, for polls of their tasks.

    A call that it turns away at the door gets `headers` beside the wire's own, and `words` before its message.
    """

    kind: FaultKind
    count: int = 1
    retry_after_s: float | None = None
    prompt: str = ""
    polls: bool = False
    delay_s: float = 1.0  # of SLOW_POLL
    headers: Mapping[str, str] = field(default_factory=dict)
    words: str = ""


class Faults:
    """The faults that are waiting, oldest first."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Queue `fault` for the next calls that it fits."""
        if fault.count < 1:
            raise ValueError("A fault needs a count of 1 or more.")
        self._waiting.append(fault)

    def take(self, prompt: str, kinds: Collection[FaultKind]) -> Fault | None:
        """The oldest fault of these kinds for a call with this prompt, used up by one; None if there is none."""
        return self._take(prompt, lambda fault: not fault.polls and fault.kind in kinds)

    def take_for_poll(self, prompt: str) -> Fault | None:
        """The same for a poll of the task with this prompt."""
        return self._take(prompt, lambda fault: fault.polls or fault.kind is FaultKind.SLOW_POLL)

    def _take(self, prompt: str, fits: Callable[[Fault], bool]) -> Fault | None:
        for fault in self._waiting:
            if fault.prompt in prompt and fits(fault):
                fault.count -= 1
                if not fault.count:
                    self._waiting.remove(fault)
                return fault
        return None
