"""What the queue's scripts are given and what they answer, as types, and the rows of their replies read into them.

All times are the Redis server's, in microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import orjson

from daemon.queue.outcomes import Outcome, Retry, Succeeded, Throttled

FOREVER_US = 2**53

Accepted = Literal["queued", "duplicate", "conflict", "resumed"]
Target = Literal["group", "item"]
Opened = Literal["new", "resume", "duplicate", "conflict"]


class LeaseLost(Exception):  # noqa: N818 - an outcome that a worker acts on, not a fault
    """The item belongs to somebody else now: stop, send nothing, change nothing."""


class NewItem(NamedTuple):
    """An item to accept. `gid`/`part` are empty for a job of its own; times are microseconds or None."""

    uid: str
    gid: str
    part: str
    route: str
    lane: str
    head: str
    spec: bytes
    fingerprint: str
    not_before_us: int | None
    expires_us: int | None
    max_attempts: int
    entry: str  # the intake entry to take off with it, or ''


class PartEnd(NamedTuple):
    """The last items of a group's part are in this call: mark it read and take its entry off."""

    gid: str
    part: str
    entry: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """An item that this replica runs, as the claim (or the reclaim) left it."""

    uid: str
    lane: str
    entry: str
    epoch: str
    spec: bytes
    attempts: int
    deliveries: int
    throttles: int
    accepted_us: int
    queue_us: int
    throttled_us: int
    receipt: bytes
    waived: bool = False  # a person retried it after its deadline, which so does not hold any more
    intent_us: int | None = None
    permit: str = ""


class Claim(NamedTuple):
    """`more`: work is still waiting; `lost`: entries that had vanished from the stream, queued anew by the claim."""

    more: bool
    lost: int
    items: list[Claimed]


class Reclaimed(NamedTuple):
    """One page of orphans: where to go on, the items that are ours now, and how many were given up as poison.

    `calls`: whether the provider takes money for each call of those that nobody has counted.
    """

    cursor: str
    items: list[Claimed]
    poisoned: int
    calls: tuple[str, ...] = ()


class GroupCounts(NamedTuple):
    """Counts of a batch's members by state; they sum to `total`."""

    gid: str
    head: str
    total: int
    queued: int
    throttled: int
    retry_wait: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    held: int

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled + self.expired

    def by_state(self) -> dict[str, int]:
        """As the contract's events and answers show them."""
        return {name: value for name, value in self._asdict().items() if name not in {"gid", "head"}}


class Changed(NamedTuple):
    """What a cancel or a retry did: `known` is False for an id that nobody has heard of."""

    known: bool
    ended_or_queued: int
    asked: int = 0


def read_claimed(row: Sequence[bytes]) -> Claimed:
    """A row of `claim`."""
    (
        uid,
        lane,
        entry,
        epoch,
        spec,
        attempts,
        deliveries,
        throttles,
        accepted,
        queue,
        throttled,
        receipt,
        waived,
    ) = row
    return Claimed(
        uid.decode(),
        lane.decode(),
        entry.decode(),
        epoch.decode(),
        spec,
        int(attempts),
        int(deliveries),
        int(throttles),
        int(accepted),
        int(queue),
        int(throttled),
        receipt,
        bool(waived),
    )


def read_reclaimed(row: Sequence[bytes]) -> Claimed:
    """A row of `reclaim`."""
    intent_us = int(row[13]) if row[13] else None
    return replace(read_claimed(row[:13]), intent_us=intent_us, permit=row[14].decode())


def read_counts(row: Sequence[bytes]) -> GroupCounts:
    """A row of `progress`."""
    return GroupCounts(row[0].decode(), row[1].decode(), *(int(count) for count in row[2:]))


def outcome_fields(outcome: Outcome) -> tuple[bytes, int]:
    """What `settle` is told of an outcome: its text (JSON) and its delay in microseconds."""
    match outcome:
        case Succeeded(result):
            return orjson.dumps(result), 0
        case Retry(error, delay_s) | Throttled(error, delay_s):
            return orjson.dumps(error), round(delay_s * 1e6)
        case _:
            return orjson.dumps(getattr(outcome, "error", {})), 0
