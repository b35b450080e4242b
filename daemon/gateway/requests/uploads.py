"""Takes uploads in: written to disk while they come, within one budget for all of them.

The budget is taken before the first byte is read, by the announced length, so a crowd of large uploads cannot fill the
disk together: those beyond it get an answer at once. An upload without a length takes it as its bytes come.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import IO, Final

import structlog
from fastapi import Request

from daemon.gateway.answering.problems import Problem
from daemon.gateway.requests.bodies import CLOSE, announced_bytes, check_type, chunks_of

log = structlog.get_logger(__name__)

IN_MEMORY_BYTES: Final = 256 * 1024  # of one upload; more goes to the disk
AGAIN_S: Final = 2


class Uploads:
    """The budget of one process, in bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes
        self._share = most_bytes // 2
        self._held = Counter[str | None]()  # by tenant

    @contextmanager
    def hold(self, size: int, tenant: str | None) -> Iterator[Callable[[int], None]]:
        """Take `size` bytes of the budget for an upload; yields what takes more. Raises Problem 503 beyond the budget.

        A tenant has half of the budget, or one upload that is larger. None: a caller without a key has all of it.
        """
        taken = 0

        def take(more: int) -> None:
            nonlocal taken
            held = self._held[tenant]
            exceeds_share = tenant is not None and held > taken and held + more > self._share
            if more > self._left or exceeds_share:
                raise _busy("Other uploads are under way; send it again in a moment.")
            self._left -= more
            self._held[tenant] += more
            taken += more

        try:
            take(size)
            yield take
        finally:
            self._left += taken
            self._held[tenant] -= taken
            self._held = +self._held  # without tenants that hold nothing

    @asynccontextmanager
    async def spooled(
        self, request: Request, tenant: str | None, most: int, types: Collection[str], *, copies: int = 1
    ) -> AsyncIterator[IO[bytes]]:
        """The body as a file, at its beginning; the file is gone afterwards. Raises Problem as `read_body` does.

        `tenant` is that of the caller's key. `copies`: how often all of it will be on the disk.
        """
        check_type(request, types)
        size = announced_bytes(request, most)
        with self.hold(copies * (size or 0), tenant) as take, _spool() as file:
            async for chunk in chunks_of(request, most):
                if size is None:
                    take(copies * len(chunk))
                _write(file, chunk)
            file.seek(0)
            yield file


def _spool() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)


def _write(file: IO[bytes], chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        log.warning(
            "an upload cannot be written to the disk", error=error.strerror, directory=tempfile.gettempdir()
        )
        raise _busy("This machine has no room for an upload now; send it again in a moment.") from None


def _busy(sentence: str) -> Problem:
    # The body is not read any further.
    return Problem(503, "busy", sentence, retry_after_s=AGAIN_S, headers=CLOSE)
