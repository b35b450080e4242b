"""The needs of a client: one way to an installation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from pixmill.errors import NotFoundError
from pixmill.results import Event, Result, Status

PATIENCE_S = 60.0  # how long a read is repeated while nothing answers


class Transport(Protocol):
    """One way to an installation, for one tenant. Errors: those of `pixmill.errors`, and no others."""

    async def open(self) -> None:
        """Make it ready; called once, before any other method."""

    async def close(self) -> None:
        """Close its connections."""

    async def submit(self, job: Mapping[str, Any], wait_s: float) -> None:
        """Send a job, and wait up to `wait_s` until it is accepted; raises RejectedError and NotTakenError."""

    async def submit_batch(
        self, head: Mapping[str, Any], items: Sequence[Mapping[str, Any]], wait_s: float
    ) -> None:
        """Send a batch; as `submit`."""

    async def status(self, ident: str) -> Status | None:
        """The state of a batch, a job, or `BATCH/ITEM`; None without a record."""

    async def results(self, ident: str) -> list[Result]:
        """The result of each picture; raises NotFoundError."""

    def watch(self, ident: str, after: str | None) -> AsyncIterator[Event]:
        """The events to its end; raises NotFoundError."""

    async def cancel(self, ident: str) -> None:
        """Cancel what has not ended; raises NotFoundError."""

    async def retry(self, ident: str) -> None:
        """Queue failed pictures again; raises NotFoundError."""

    async def picture(self, image: Mapping[str, Any]) -> bytes:
        """The bytes of an image of a result; raises OutputError."""


def no_record(ident: str) -> NotFoundError:
    """The error for an id without a record."""
    return NotFoundError(f'There is no record of "{ident}" here: it was never accepted, or it has expired.')
