"""Runs an ASGI app inside the event loop of its owner.

It installs no signal handlers, sets up no logging, and never ends the process.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, cast

import uvicorn

from providers.http.connections import Guarded

_BACKLOG = 2048  # connections that wait to be accepted, as uvicorn's
LOOKS_EVERY = 10  # ticks of 0.1 s


class AsgiServer:
    """An HTTP server as a part of a process: `start` when it should listen, `stop` when it should not.

    Port 0 takes a free port, known as `port` after `start`. Stopping waits `grace_s` for running answers,
    then closes their connections; stopping twice, or without a start, does nothing.
    """

    def __init__(
        self,
        app: Any,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        grace_s: float = 1.0,
        spare_ports: int = 0,
        listener: type[socket.socket] = socket.socket,
        most_connections: int | None = None,
    ) -> None:
        """`listener` makes the socket that connections are accepted from.

        Where `port` is taken, up to `spare_ports` of the next ones are tried. Beyond `most_connections`, those that
        are idle make room, and others are answered with 503.
        """
        self.host = host
        self.port = port
        self._app = app
        self._grace_s = grace_s
        self._spare_ports = spare_ports
        self._listener = listener
        self._most_connections = most_connections
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where clients on this machine find it, without a slash at the end."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 (only compared)
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises OSError with a sentence if the address cannot be used, RuntimeError if the app fails."""
        listener = self._bound()
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            http=Guarded,
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(self._grace_s)),
        )
        config.most_connections = self._most_connections  # type: ignore[attr-defined]  # for its connections
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name=f"http {self.port}")
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            self._server = None
            listener.close()
            await self._task

    async def stop(self) -> None:
        """Stop listening and wait until every connection is closed."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        self._server.stopping.set()
        await self._task
        self._server = self._task = None

    def _bound(self) -> socket.socket:
        last = min(self.port + self._spare_ports, 65_535)
        for port in range(self.port, last + 1):
            try:
                return self._listening(port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE and port < last:
                    continue
                host = f"[{self.host}]" if ":" in self.host else self.host
                message = (
                    f"Cannot listen on {host}:{port}: {error.strerror or error}. "
                    "Choose another address or another port."
                )
                raise OSError(error.errno, message) from None
        raise ValueError(f"{self.port} is no port.")

    def _listening(self, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = self._listener(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, port))
            # Two processes may bind one port; only one of them may listen.
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        return listener


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets=sockets)
        except SystemExit:
            # uvicorn ends the process when an app does not start; here the owner decides.
            raise RuntimeError("The HTTP app failed while it started; the log has its reason.") from None
        self.ready.set()

    async def main_loop(self) -> None:
        # As uvicorn's, but a stop is noticed at once instead of at the next tick.
        tick = 0
        while not await self.on_tick(tick):
            tick = (tick + 1) % 864_000
            if tick % LOOKS_EVERY == 0:
                for connection in list(self.server_state.connections):
                    cast("Guarded", connection).look()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), 0.1)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # Signals belong to the process that runs us; uvicorn would take SIGTERM over and raise it again.
        yield
