"""How long a run may take, and what it means for its item that this time is over.

The provider's own timer comes first, since only that knows whether anything was sent; ours stands behind it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from daemon.contract import Job
from daemon.worker.run import Run
from providers.errors import Charged, ErrorKind, ProviderError, Retry

# Behind the provider's own timer, for one that keeps no time: far enough that a busy loop does not find both due.
GRACE_S = 5.0


class Unfinished(ProviderError):  # noqa: N818 - what it is about may still end well
    """The provider has the task, which did not end in time; it is still good, so a retry polls it."""


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The end of a run: after the route's `timeout_s`, or at the job's deadline where that comes first."""

    timeout_s: float
    deadline: datetime | None
    ends_at: float  # by the event loop's clock

    @classmethod
    def of(cls, run: Run, job: Job) -> TimeLimit:
        """The limit of a call that begins now. What had passed at a person's retry is no deadline any more."""
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
        """Raise, free of charge, when nothing was sent and the time is over."""
        if not self.left_s():
            raise ProviderError(
                ErrorKind.DEADLINE, "Its deadline passed before the provider was asked.", charged=Charged.NO
            )

    def unanswered(self) -> ProviderError:
        """The provider was asked and said nothing in time: neither the job's deadline nor ours tells what it did."""
        when = f"within {self.timeout_s:g} s"
        if self._deadline_passed():
            when = f"by the job's deadline, {self._deadline_text()}"
        return ProviderError(
            ErrorKind.AMBIGUOUS_SUBMIT,
            f"The provider did not answer {when}; whether it made the picture is not known.",
        )

    def unfinished(self, refused: ProviderError | None = None) -> Unfinished:
        """The provider's task did not end in time; `refused` is what its last poll was told, if it was no news."""
        if self._deadline_passed():
            kind, when = ErrorKind.DEADLINE, f"by the job's deadline, {self._deadline_text()}"
        else:
            kind, when = ErrorKind.PROVIDER_TIMEOUT, f"within {self.timeout_s:g} s"
        message = f"The provider's task did not end {when}; retrying this item goes on polling it."
        if refused is not None:
            message += f" The last poll was refused: {refused.message}"
        return Unfinished(kind, message, retry=Retry.NEVER)

    def _deadline_passed(self) -> bool:
        return self.deadline is not None and self.deadline <= datetime.now(UTC)

    def _deadline_text(self) -> str:
        return self.deadline.isoformat() if self.deadline is not None else ""
