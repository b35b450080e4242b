"""The simulated provider of the demo: a process of its own, as a real provider is, so neither delays the other."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx2

from providers import simulator

# The package is found from here, whatever the directory of the caller holds.
_ROOT: Final = Path(simulator.__file__).parents[2]
_BOOKS_S: Final = 30.0


class DemoError(Exception):
    """The demo failed; the message gives the reason."""


class SimulatedProvider:
    """A running simulator. `base_url` is for a client of the OpenAI wire."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    async def ledger(self) -> dict[str, Any]:
        """Its books, with each call. Raises DemoError."""
        address = f"{self.base_url.removesuffix('/v1')}/simulator/ledger?entries"
        try:
            async with httpx2.AsyncClient(trust_env=False, timeout=_BOOKS_S) as client:
                books: dict[str, Any] = (await client.get(address)).json()
        except httpx2.TransportError as error:
            raise DemoError(
                f"The simulated provider ended before the demo ({type(error).__name__}); run the demo again."
            ) from None
        return books


@asynccontextmanager
async def simulated_provider(options: Sequence[str]) -> AsyncIterator[SimulatedProvider]:
    """Run the simulator with `options` of its command on a free port. Raises DemoError if it does not start.

    It ends when its standard input closes, which also happens when this process is killed. It has a session of its
    own, so Ctrl-C reaches only the demo, whose running calls can then still end.
    """
    command = (sys.executable, "-m", "providers.simulator", "--port", "0", "--until-stdin-closes", *options)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    try:
        words = (await process.stdout.readline()).split()
        if not words:
            raise DemoError("The simulated provider does not start; its own message is above.")
        yield SimulatedProvider(words[-1].decode())
    finally:
        process.stdin.close()
        await process.wait()
