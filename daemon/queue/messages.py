"""Arguments and replies of the queue's scripts, as types. All times are the Redis server's, in microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Required, TypedDict

import orjson
from pydantic import BeforeValidator

from pixmill.records.keys import Uid

FOREVER_US = 2**53
SCHEMA = 1  # of the records in Redis, which this version writes and understands

Accepted = Literal["queued", "duplicate", "conflict", "resumed", "full"]
Target = Literal["group", "item"]
# `more`: some records are left, or the work is only marked. The header of delete.lua explains the others.
Deletion = Literal["not_ended", "unknown", "more", "gone"]
Opened = Literal["new", "resume", "duplicate", "conflict", "full", "gone"]
# The verdicts on a receipt; the header of note.lua explains them.
Noted = Literal["ours", "second", "kept", "buried"]


class LeaseLost(Exception):  # noqa: N818 - an outcome that a worker acts on, not a fault
    """Another worker owns the item now: stop, send nothing, change nothing."""


class NewerSchemaError(Exception):
    """The records in Redis were written by a newer version, so this one must not touch them."""

    def __init__(self, found: int) -> None:
        super().__init__(
            f"This version of Pixmill knows the schema {SCHEMA} of the records in Redis, and these have the schema "
            f"{found} of a newer one: install the version of the other replicas here, or use another redis.prefix."
        )


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
    cache: str = ""  # `use` or `refresh`, a space and the fingerprint of its pixels; or ''


class NewGroup(TypedDict, total=False):
    """A group to open, or one part of it; without `part` it is whole. `route` is the first member's, for estimates.

    `must_exist`: it was opened before, and is `gone` if it has been deleted since.
    """

    head: Required[str]
    fingerprint: Required[str]
    members: Required[int]
    part: int
    parts: int
    route: str
    max_in_flight: int | None
    details: bytes
    must_exist: bool | None
    staged: Sequence[int]  # later parts that were journaled before, under the mark
    mark: str


class PartEnd(NamedTuple):
    """The last items of a group's part are in this call: mark it read and take its entry off."""

    gid: str
    part: str
    entry: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """An item that this replica runs: its record as the claim (or the reclaim) left it."""

    uid: str
    lane: str
    place: str  # `cached` for an item that is only copied, else `queue`
    entry: str
    epoch: str
    spec: bytes
    accepted_us: int
    attempts: int = 0
    deliveries: int = 0
    throttles: int = 0
    queue_us: int = 0
    throttled_us: int = 0
    permit: str = ""
    receipt: bytes = b""
    waived_us: int = 0  # the time of the last retry by a person; a deadline before it is void
    sent_us: int = 0  # the time of its entry in the jobs stream; 0: not known
    # Redis has restarted or failed over since it was sent (or, for a reclaimed item, claimed), and may have lost what
    # followed.
    survived: bool = False
    intended: bool = False  # its claim has noted the intent of its call
    via: str = ""  # of a reclaimed item: the route whose account its last run used, if several serve its own
    intent_us: Annotated[int | None, BeforeValidator(lambda text: text or None)] = None
    head: str = ""  # the identity that its events begin with, as JSON without the braces

    @property
    def job(self) -> str:
        """The id of the job that made it, which is its own unless the job has several pictures."""
        return str(self._identity().get("job") or Uid.parse(self.uid).item)

    @property
    def traceparent(self) -> str:
        """The trace that its producer sent it in, as it was given, or an empty text."""
        origin = self._identity().get("cloudevent") if '"traceparent"' in self.head else None
        return str(origin.get("traceparent", "")) if isinstance(origin, dict) else ""

    def _identity(self) -> dict[str, Any]:
        """The head as an object; empty if somebody has changed the record, for a log line must not fail then."""
        try:
            identity: dict[str, Any] = orjson.loads("{" + self.head + "}")
        except orjson.JSONDecodeError:
            return {}
        return identity


class Claim(NamedTuple):
    """`more`: work is still waiting; `lost`: how many items were queued again because their entries had vanished.

    `calm_s`: for so long nothing is claimed, since Redis has begun another life. `requested`: the limiter's reply, if a
    permit was requested in the same step.
    """

    more: bool
    lost: int
    items: list[Claimed]
    calm_s: float = 0.0
    requested: Sequence[Any] = ()


class PermitRequest(NamedTuple):
    """A request for a permit, to be made in the step of a claim: the keys and arguments of the limiter's acquire.lua.

    `permit` is that of a grant as JSON, without its times. An item starts `early_s` before its slot.
    """

    keys: Sequence[str]
    args: Sequence[str | int]
    permit: str
    early_s: float


class Serving(NamedTuple):
    """The part of one account in serving a route's queue, as claim_shared.lua takes it."""

    via: str
    accounts: Sequence[str]
    down: Sequence[str]
    spare: bool
    differs: bool


class Reclaimed(NamedTuple):
    """One page of orphans: the next cursor, the items that are ours now, and how many were given up as poison.

    `calls`: for each uncounted call of a poisoned item, whether the provider charges it.
    """

    cursor: str
    items: list[Claimed]
    poisoned: int
    calls: tuple[str, ...] = ()


class Answer(NamedTuple):
    """An item's result without a call: an entry of the cache, or a refusal. Both are empty if they have ended.

    `joined`: the item already waited when the answer was made.
    """

    entry: bytes
    refusal: bytes
    joined: bool


class Changed(NamedTuple):
    """The effect of a cancel or a retry: `known` is False for an id without a record."""

    known: bool
    ended_or_queued: int
    requested: int = 0  # running items that got a request to stop
