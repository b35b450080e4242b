"""A daemon in this process, and the way over its Redis."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from pixmill.errors import NotInstalledError, NotRunningError
from pixmill.transports.over_redis import RedisTransport


class LocalTransport(RedisTransport):
    """Starts what `pixmill up` starts, without HTTP, and ends it with the client."""

    def __init__(self, config: Path | None, data_dir: Path, tenant: str) -> None:
        """Raises NotInstalledError where there is no daemon to start."""
        try:
            from daemon.embedding import embedded
        except ImportError as error:
            raise NotInstalledError(
                f"Client.local() runs a daemon in this process, and it cannot be imported ({error}). "
                "Install it with `pip install pixmill-daemon`, or name a Redis or a gateway."
            ) from None
        self._tenant = tenant
        self._daemon = partial(embedded, config, data_dir)
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Start the daemon; raises NotRunningError if it cannot start."""
        try:
            url, prefix = await self._stack.enter_async_context(self._daemon())
        except (OSError, ValueError, RuntimeError) as error:
            raise NotRunningError(f"The daemon did not start: {error}") from None
        super().__init__(url, prefix, self._tenant)

    async def close(self) -> None:
        """Close the connections and end the daemon; running calls are finished and kept."""
        if hasattr(self, "_client"):
            await super().close()
        await self._stack.aclose()
