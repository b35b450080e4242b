"""The outcomes of a run: a closed set. The executor returns one of these; `settle.lua` knows each by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The picture is in the object store; `result` goes into the record and the event."""

    name: ClassVar[str] = "succeeded"
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """It will not work: trying again would give the same answer."""

    name: ClassVar[str] = "failed"
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Retry:
    """A real failure that may pass; costs an attempt, waits `delay_s`."""

    name: ClassVar[str] = "retry"
    error: Mapping[str, Any]
    delay_s: float


@dataclass(frozen=True, slots=True)
class Throttled:
    """The provider wants us to wait; costs the job nothing."""

    name: ClassVar[str] = "throttled"
    error: Mapping[str, Any]
    delay_s: float


@dataclass(frozen=True, slots=True)
class Unknown:
    """A call was sent and its answer is lost: `on_unknown_outcome` of the job decides."""

    name: ClassVar[str] = "unknown"
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Held:
    """A person has to look: nothing is sent, nothing is thrown away."""

    name: ClassVar[str] = "held"
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A cancel came before anything was sent, or its provider promised not to run the task."""

    name: ClassVar[str] = "cancelled"


@dataclass(frozen=True, slots=True)
class Released:
    """Not begun: back to the queue, unharmed."""

    name: ClassVar[str] = "released"


@dataclass(frozen=True, slots=True)
class Missed:
    """The picture to copy is gone: `entry` of the cache named it, empty if that has gone too."""

    name: ClassVar[str] = "missed"
    entry: bytes


Outcome = Succeeded | Failed | Retry | Throttled | Unknown | Held | Cancelled | Released | Missed
