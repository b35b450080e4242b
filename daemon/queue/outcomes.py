"""The outcomes of a run, a closed set. The executor returns one of them; `settle.lua` knows each by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The picture is in the object store; `result` goes into the record and the event."""

    name: ClassVar[str] = "succeeded"
    result: Mapping[str, Any]


@dataclass(frozen=True)
class _Trouble:
    name: ClassVar[str]
    error: Mapping[str, Any]


@dataclass(frozen=True)
class _Delayed(_Trouble):
    delay_s: float


class Failed(_Trouble):
    """The same call would fail again."""

    name = "failed"


class Retry(_Delayed):
    """A failure that may pass: costs an attempt, waits `delay_s`."""

    name = "retry"


class Throttled(_Delayed):
    """The provider wants us to wait: costs no attempt."""

    name = "throttled"


class Unknown(_Trouble):
    """A call was sent and its answer is lost; the job's `on_unknown_outcome` decides what follows."""

    name = "unknown"


class Held(_Trouble):
    """A person must decide; until then nothing is sent and nothing is deleted."""

    name = "held"


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A cancel came before anything was sent, or the provider promised not to run the task."""

    name: ClassVar[str] = "cancelled"


@dataclass(frozen=True, slots=True)
class Released:
    """The run did not begin: the item goes back to the queue unchanged."""

    name: ClassVar[str] = "released"


@dataclass(frozen=True, slots=True)
class Missed:
    """The picture to copy has ended. `entry` is the cache entry that named it, empty if that has ended too."""

    name: ClassVar[str] = "missed"
    entry: bytes


Outcome = Succeeded | Failed | Retry | Throttled | Unknown | Held | Cancelled | Released | Missed
