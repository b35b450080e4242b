"""Repeats reads while Redis or the gateway does not answer, as during a deploy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pixmill.errors import UnavailableError
from pixmill.transports.base import PATIENCE_S

T = TypeVar("T")


async def patiently(read: Callable[[], Awaitable[T]]) -> T:
    """The result of a read, which is repeated for PATIENCE_S; then its last UnavailableError is raised."""
    from pixmill.broker.backoff import pause_s  # late: it brings a library, and `import pixmill` brings none

    failures, began = 0, time.monotonic()
    while True:
        try:
            return await read()
        except UnavailableError:
            if time.monotonic() - began > PATIENCE_S:
                raise
        await asyncio.sleep(pause_s(failures))
        failures += 1
