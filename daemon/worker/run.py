"""Describes one run of an item: the phase of its provider call, its reports, its time limit, and its result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from types import TracebackType
from typing import Any, NamedTuple

import orjson
import structlog

from daemon.accounts.routes import Route, Turn
from daemon.broker.loops import PATIENCE_S
from daemon.queue.messages import Claimed, LeaseLost
from daemon.storage.keeper import Place
from limiter import Permit
from limiter.script import finished
from pixmill.contract import Job
from pixmill.records.keys import CACHED, Uid
from providers.base import Generated, Picture, Submitted
from providers.errors import Charged, ErrorKind, ProviderError, Retry

log = structlog.get_logger(__name__)

# Added to the provider's own timer, in case that fails: a busy loop must not find both timers due at once.
GRACE_S = 5.0


class Phase(Enum):
    """The progress of the call that a run makes itself; a run that only polls an older task makes none."""

    WAITING = "waiting"  # nothing was sent
    CALLING = "calling"  # the provider's submit has begun
    LEFT = "left"  # the first byte was about to leave: the call may be paid for
    ORPHANED = (
        "orphaned"  # it had left when another replica took the item over; the run only waits for the reply
    )
    SETTLING = "settling"  # the outcome is on its way to the queue
    LOST = "lost"  # another replica has the item, and this run stops


FOLLOWS: Mapping[Phase, frozenset[Phase]] = {
    # A call that did not leave after all, or whose permit was recalled, leads back to WAITING.
    Phase.WAITING: frozenset({Phase.WAITING, Phase.CALLING, Phase.SETTLING, Phase.LOST}),
    Phase.CALLING: frozenset({Phase.WAITING, Phase.LEFT, Phase.SETTLING, Phase.LOST}),
    # A provider may send once more on another connection.
    Phase.LEFT: frozenset({Phase.WAITING, Phase.LEFT, Phase.ORPHANED, Phase.SETTLING, Phase.LOST}),
    Phase.ORPHANED: frozenset({Phase.WAITING, Phase.SETTLING}),
    Phase.SETTLING: frozenset(),
    Phase.LOST: frozenset(),
}


class Beside:
    """A run's reports to Redis beside its other steps, so that no outage keeps a paid picture from the store.

    They are sent in order. The end of the `async with` block waits for the last one; a cancelled run cancels them,
    except the `receipt`. A report that fails is logged, and the next one follows. If a report finds that the item has
    another owner, the block is stopped and raises LeaseLost.
    """

    __slots__ = ("_cancels", "_last", "_lost", "_owner", "_receipt")

    def __init__(self) -> None:
        self._last: asyncio.Task[None] | None = None
        self._receipt: asyncio.Task[None] | None = None
        self._owner: asyncio.Task[object] | None = None  # runs the block, until its end
        self._cancels = 0  # of the owner, before the block
        self._lost: LeaseLost | None = None

    async def begin(self, step: Callable[[], Awaitable[None]]) -> None:
        """Begin `step` after the steps before it. Returns once the first of them is on its way."""
        self._last = asyncio.create_task(self._after(self._last, step))
        await asyncio.sleep(0)

    async def receipt(self, step: Callable[[], Awaitable[None]]) -> None:
        """Begin the step that notes the receipt, and wait for it a moment, so that it comes before the first poll.

        A run that is stopped finishes it: without the receipt the task would be bought again.
        """
        await self.begin(step)
        self._receipt = self._last
        if self._receipt is not None:
            await asyncio.wait([self._receipt], timeout=PATIENCE_S)

    async def __aenter__(self) -> Beside:
        self._owner = asyncio.current_task()
        self._cancels = 0 if self._owner is None else self._owner.cancelling()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        owner, self._owner = self._owner, None
        stopped = self._lost is not None  # by a report, not from outside
        if self._last is not None:
            if isinstance(error, asyncio.CancelledError):
                await self._cancel(self._last)
            else:
                await self._last
        if self._lost is None:
            return
        if stopped and owner is not None:
            from_outside = owner.uncancel() > self._cancels
        else:
            from_outside = isinstance(error, asyncio.CancelledError)
        if not from_outside:
            raise self._lost from error

    async def _cancel(self, last: asyncio.Task[None]) -> None:
        with suppress(asyncio.CancelledError):
            if self._receipt is not None:
                await finished(self._receipt)
        last.cancel()
        with suppress(asyncio.CancelledError):
            await last

    async def _after(self, before: asyncio.Task[None] | None, step: Callable[[], Awaitable[None]]) -> None:
        if before is not None:
            await before
        if self._lost is not None:
            return
        try:
            await step()
        except LeaseLost as lost:
            self._lost = lost
            if self._owner is not None:
                self._owner.cancel()
        except Exception:
            log.exception("a report of a run failed; the run goes on")


@dataclass(eq=False, slots=True)
class Run:
    """One item on its way. `permit` is None on a route without quotas."""

    item: Claimed
    route: Route
    permit: Permit | None
    adopted: bool = False  # taken over from a replica that fell silent
    # Monotonic times: the permit's slot, from which the call counts as late; the earliest time to send; the request.
    slot_at: float | None = None
    leaves_at: float = 0.0
    requested_at: float = 0.0
    started_at: float = field(default_factory=time.monotonic)
    ready_s: float = 0.0  # from its start until only the intent and the connection were left to do
    cancel_requested: asyncio.Event = field(default_factory=asyncio.Event)
    intent_noted_at: float = 0.0  # monotonic time at which the intent was last written
    connects_at: float = 0.0  # monotonic time from which only the connection was left to do
    line: str = ""  # the item's own route; '' where no other account can run its items
    turn: Turn | None = None  # to try the way to the provider; a run that was taken over makes no call
    phase: Phase = Phase.WAITING
    submitted: Submitted | None = None  # the provider's task, once it is known
    headers: Mapping[str, str] = field(default_factory=dict)  # of the reply, until they are passed on
    beside: Beside = field(default_factory=Beside)  # reports to Redis, which delay no step of the run
    task: asyncio.Task[None] | None = None
    has_room: bool = False  # whether it has room in the replica's memory for answers, which must be released
    answer_bytes: int = 0  # of the replica's memory for answers, held by this run

    def enter(self, phase: Phase) -> None:
        """Enter `phase`. Raises LeaseLost when the item has another owner, RuntimeError for a wrong step."""
        if phase not in FOLLOWS[self.phase]:
            if self.phase in (Phase.ORPHANED, Phase.LOST):
                raise LeaseLost(f"{self.item.uid} was taken over by another worker")
            raise RuntimeError(f"a run cannot go from {self.phase.value} to {phase.value}")
        self.phase = phase

    @property
    def sent(self) -> bool:
        """Whether this run may have sent a provider call that was not taken back; after the end of a run, True."""
        return self.phase is not Phase.WAITING

    @property
    def instead_of(self) -> str | None:
        """The item's own route, if another one's account runs it."""
        return self.line if self.line not in ("", self.route.name) else None

    def receipt_of(self, task: Submitted) -> bytes:
        """The receipt of a task, as it is written down. It names the account if the item's own route does not."""
        return orjson.dumps({**task.to_dict(), **self.by()})

    @property
    def place(self) -> Place:
        """The parts of the image's key, which are the same for every run of the item."""
        sent_us = self.item.sent_us or self.item.accepted_us
        return Uid.parse(self.item.uid), _time(self.item.accepted_us), _time(sent_us)

    @property
    def may_have_called(self) -> bool:
        """Whether an earlier run may have made a call: it noted an intent, or Redis may have lost that note.

        A copy makes no call.
        """
        may_lack_note = self.adopted and self.item.survived and self.item.place != CACHED
        return self.item.intent_us is not None or may_lack_note

    @property
    def noted(self) -> str:
        """The field that the item's record must have by now: this run wrote it before or after its call."""
        if self.phase in (Phase.SETTLING, Phase.LOST):
            return ""
        if self.submitted is not None:
            return "receipt"
        return "intent_us" if self.phase in (Phase.LEFT, Phase.ORPHANED) else ""

    def by(self) -> dict[str, str]:
        """For results and receipts: the route whose account runs the item, if that is not its own route."""
        return {} if self.instead_of is None else {"route": self.route.name, "instead_of": self.instead_of}

    def result(
        self,
        job: Job,
        image: dict[str, Any],
        generated: Generated | None = None,
        provider_s: float | None = None,
    ) -> dict[str, Any]:
        """The result in the record and in the event; `generated` is None for a picture of an earlier run."""
        task_id = orjson.loads(self.item.receipt)["task_id"] if self.item.receipt else None
        cost = None
        if generated is not None and generated.cost is not None:
            cost = {"amount": f"{generated.cost:f}", "currency": generated.currency}
        return {
            "images": [image],
            "attempts": self.item.attempts + 1,
            "queue_seconds": round(self.item.queue_us / 1e6, 3),
            "throttled_seconds": round(self.item.throttled_us / 1e6, 3),
            "provider_seconds": None if provider_s is None else round(provider_s, 3),
            "provider_task_id": task_id if self.submitted is None else self.submitted.task_id,
            "revised_prompt": None if generated is None else generated.revised_prompt,
            "cost": cost,
            "cache": "miss" if job.cache == "use" else None,
            "cached_from": None,
            **self.by(),
        }


def _time(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1e6, UTC)


class Recalled(Exception):  # noqa: N818 - an outcome, not a fault
    """The permit is not valid any more, and the call was not sent."""


class Unfinished(ProviderError):  # noqa: N818 - the task may still end well
    """The provider's task did not end in time. It is still good, so a retry polls it."""


class TimeLimit(NamedTuple):
    """The end of a run: after the route's `timeout_s`, or at the job's deadline if that comes first."""

    timeout_s: float
    deadline: datetime | None
    ends_at: float  # by the event loop's clock

    @classmethod
    def of(cls, run: Run, job: Job) -> TimeLimit:
        """The limit of a call that begins now. A deadline that passed before a person's retry is ignored."""
        deadline = job.deadline
        if deadline is not None and deadline.timestamp() * 1e6 <= run.item.waived_us:
            deadline = None
        left_s = timeout_s = run.route.timeout_s
        if deadline is not None:
            left_s = min(timeout_s, max(0.0, (deadline - datetime.now(UTC)).total_seconds()))
        return cls(timeout_s, deadline, asyncio.get_running_loop().time() + left_s)

    def left_s(self) -> float:
        """Seconds until the end, 0 or more."""
        return max(0.0, self.ends_at - asyncio.get_running_loop().time())

    def check_unsent(self) -> None:
        """Raise ProviderError, free of charge, when the time is over before anything was sent."""
        if not self.left_s():
            raise ProviderError(
                ErrorKind.DEADLINE, "Its deadline passed before the call was sent.", charged=Charged.NO
            )

    def unanswered(self) -> ProviderError:
        """The error of a call without a reply in time: the provider may have carried it out."""
        return ProviderError(
            ErrorKind.AMBIGUOUS_SUBMIT,
            f"The provider did not answer {self._when()}; whether it made the picture is not known.",
        )

    def unfinished(self, refused: ProviderError | None = None) -> Unfinished:
        """The error of a task that did not end in time; `refused` is the refusal of its last poll."""
        kind = ErrorKind.DEADLINE if self._deadline_passed() else ErrorKind.PROVIDER_TIMEOUT
        message = f"The provider's task did not end {self._when()}; retrying this item goes on polling it."
        if refused is not None:
            message += f" The last poll was refused: {refused.message}"
        return Unfinished(kind, message, retry=Retry.NEVER)

    def _when(self) -> str:
        if self.deadline is not None and self._deadline_passed():
            return f"by the job's deadline, {self.deadline.isoformat()}"
        return f"within {self.timeout_s:g} s"

    def _deadline_passed(self) -> bool:
        return self.deadline is not None and self.deadline <= datetime.now(UTC)


def only_picture(generated: Generated) -> Picture:
    """The one picture of a call; raises `no_image` if there is none."""
    if not generated.pictures:
        raise ProviderError(ErrorKind.NO_IMAGE, "The provider answered without a picture.")
    return generated.pictures[0]
