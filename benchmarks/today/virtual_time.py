"""An event loop whose clock jumps to the next timer: coroutines that sleep for minutes take no time."""

from __future__ import annotations

import asyncio
import selectors


class _Jump(selectors.SelectSelector):
    """Lets the time of a wait pass at once. Nothing may come from outside while the loop waits."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("no coroutine can go on, and no timer is set: all of them wait for each other")
        self.now_s += timeout
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop from time 0 on; `loop.time()` is the virtual time in seconds."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now_s


def now_s() -> float:
    """The time of the running loop."""
    return asyncio.get_running_loop().time()
