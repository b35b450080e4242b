"""Bounds the memory of answers: bodies, whatever their encoding, from their arrival until their pictures are stored,
and pixels while they are decoded.

An answer of 1 MB may unpack to 96 MB, a picture of 22 KB may have 50 million pixels, and many may come at a time.
"""

from __future__ import annotations

import asyncio
import ctypes
import time
from dataclasses import dataclass
from functools import cache
from itertools import count

import structlog

from daemon.worker.run import Run
from providers.http.client import MAX_ANSWER_BYTES
from providers.http.room import Room

log = structlog.get_logger(__name__)

# Without any release for this long the holders wait for the store. A paid answer then counts more than memory.
STUCK_S = 30.0


# Parameters of glibc's mallopt (malloc.h).
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE_BYTES = 1024 * 1024


@cache
def give_large_blocks_back() -> bool:
    """Let this process return each freed block of 1 MiB or more to the system at once; False where it cannot.

    By itself glibc raises that size with each large block that is freed, up to 32 MiB, and keeps the decoded pixels
    of every thread: 32 pictures of 71 MB took 140 MB more.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)) and bool(mallopt(_M_ARENA_MAX, 2))


@dataclass(eq=False, slots=True)
class _Waiter:
    run: Run
    size: int
    since: int  # the place of its run in the order in which runs began to hold
    granted: asyncio.Future[None]


class AnswerMemory:
    """The budget of one replica, in bytes. The largest answer fits in whole.

    Runs are served in the order in which they began to hold, so the first one ends soonest. It exceeds the budget if
    all other holders wait for it: nobody would release anything else.
    """

    def __init__(self, size: int = MAX_ANSWER_BYTES, *, stuck_s: float = STUCK_S) -> None:
        give_large_blocks_back()
        self._free = size
        self._stuck_s = stuck_s
        self._order = count()
        self._since: dict[Run, int] = {}  # of the runs that hold or wait
        self._line: list[_Waiter] = []  # the longest holder first
        self._passed: set[Run] = set()  # runs that were stuck, and read on without room
        self._held = 0
        self._released_at = time.monotonic()

    def room_of(self, run: Run) -> Room:
        """The room of a run; `release` it at the end."""
        run.has_room = True
        return _RunRoom(self, run)

    async def take(self, run: Run, size: int) -> None:
        """Wait until `size` more bytes are free, and hold them for the run; goes on at last if nothing becomes free."""
        since = self._since.setdefault(run, next(self._order))
        if run in self._passed or (self._free >= size and not self._line):
            self._hold(run, size)
            return
        waiter = _Waiter(run, size, since, asyncio.get_running_loop().create_future())
        self._line.append(waiter)
        self._line.sort(key=lambda each: each.since)
        try:
            self._serve()
            while not waiter.granted.done():
                await asyncio.wait({waiter.granted}, timeout=self._stuck_s)
                if self._line and time.monotonic() - self._released_at >= self._stuck_s:
                    self._pass(self._line[0])
        finally:
            if waiter in self._line:
                self._line.remove(waiter)
                self._serve()

    def give_back(self, run: Run, size: int) -> None:
        """Free `size` bytes of those that the run holds, or all if it holds fewer."""
        size = min(size, run.answer_bytes)
        run.answer_bytes -= size
        self._held -= size
        self._free += size
        self._released_at = time.monotonic()
        self._serve()

    def release(self, run: Run) -> None:
        """Free what the run holds; it holds and waits for nothing any more."""
        self._since.pop(run, None)
        self._passed.discard(run)
        self.give_back(run, run.answer_bytes)

    def _hold(self, run: Run, size: int) -> None:
        self._free -= size
        self._held += size
        run.answer_bytes += size

    def _serve(self) -> None:
        while self._line:
            first = self._line[0]
            others_wait = self._held == sum(each.run.answer_bytes for each in self._line)
            if self._free < first.size and not others_wait:
                return
            self._grant(first)

    def _pass(self, waiter: _Waiter) -> None:
        log.warning("answers wait in memory; reading one more", item=waiter.run.item.uid)
        self._released_at = time.monotonic()
        self._passed.add(waiter.run)
        self._grant(waiter)

    def _grant(self, waiter: _Waiter) -> None:
        self._line.remove(waiter)
        self._hold(waiter.run, waiter.size)
        waiter.granted.set_result(None)


class _RunRoom:
    """The room of one run."""

    def __init__(self, memory: AnswerMemory, run: Run) -> None:
        self._memory = memory
        self._run = run

    async def take(self, size: int) -> None:
        """See Room."""
        await self._memory.take(self._run, size)

    def give_back(self, size: int) -> None:
        """See Room."""
        self._memory.give_back(self._run, size)
