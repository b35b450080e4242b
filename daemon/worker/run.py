"""One item on its way through a replica: what is known of it, and of its one provider call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.accounts.routes import Route
from daemon.queue.messages import Claimed
from limiter import Permit
from providers.base import Submitted


@dataclass(eq=False, slots=True)
class Run:
    """One item on its way. `permit` is the right to one provider call; None where the route has no quota."""

    item: Claimed
    route: Route
    permit: Permit | None
    adopted: bool = False
    slot_at: float | None = None  # monotonic time for which the permit was granted
    asked_at: float = 0.0  # and at which it was asked for
    cancel_requested: asyncio.Event = field(default_factory=asyncio.Event)
    announced_at: float = 0.0  # monotonic time at which its intent was last written down, and it was ours
    sent: bool = False  # the provider call has begun
    left: bool = False  # and its first byte was about to leave
    abandoned: bool = False  # the item is somebody else's now
    settling: bool = False
    submitted: Submitted | None = None  # the provider's task, once it is known
    headers: Mapping[str, str] = field(
        default_factory=dict
    )  # what its answer said of rates, until it is told
    task: asyncio.Task[None] | None = None


class Recalled(Exception):  # noqa: N818 - an outcome, not a fault
    """The permit does not hold any more, and the call was not sent."""
