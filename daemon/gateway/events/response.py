"""Answers with `text/event-stream`: one task beside the request's own looks for its end, and pings in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from daemon.gateway.events.frames import PING
from providers.http.parts import SCOPE_WRITE

# Sends some frames now, without a turn of any task; False: it cannot, and nothing was sent.
Write = Callable[[bytes], bool]

PING_S = 15.0

# The name under which the scope of a request has the edge's answer. The edge runs its `stream` after the request, since
# the frames and the exit stacks of a request would take 6 KB for as long as a listener stays.
SCOPE_ANSWER = "pixmill.answer"

_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


class SseResponse(Response):
    """Sends what `frames` yields, each as one part of the body, and `: ping` after `ping_s` of silence.

    A slow reader delays only its own `frames`. When the client goes away, `frames` is closed at once.
    `write_by` gets a function that sends frames at once, if the server has one: a turn of a task costs more.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        ping_s: float = PING_S,
        status_code: int = 200,
        write_by: Callable[[Write], None] | None = None,
    ) -> None:
        self.status_code = status_code
        self.background = None
        self.init_headers(_HEADERS)
        self._frames = frames
        self._ping_s = ping_s
        self._sent_at = 0.0
        self._is_sending = False
        self._write_by = write_by
        self._write: Write | None = None

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        """Leave the stream to the edge of the gateway."""
        self._write = scope.get("extensions", {}).get(SCOPE_WRITE)
        scope[SCOPE_ANSWER].stream = self.run

    async def run(self, receive: Receive, send: Send) -> None:
        """Send the whole answer."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._sent_at = asyncio.get_running_loop().time()
        if self._write_by is not None and self._write is not None:
            self._write_by(self._sent_at_once)
        try:
            async with asyncio.timeout(None) as open_:
                watch = asyncio.create_task(self._watch(receive, send, open_))
                try:
                    async for frame in self._frames:
                        await self._send(send, frame)
                finally:
                    watch.cancel()
                await send(_part(b"", more=False))
        except TimeoutError:
            if not open_.expired():
                raise
        finally:
            await self._frames.aclose()

    async def _send(self, send: Send, frame: bytes) -> None:
        self._is_sending = True
        await send(_part(frame))
        self._is_sending = False
        self._sent_at = asyncio.get_running_loop().time()

    def _sent_at_once(self, frames: bytes) -> bool:
        if self._write is None or not self._write(frames):
            return False
        self._sent_at = asyncio.get_running_loop().time()
        return True

    async def _watch(self, receive: Receive, send: Send, open_: asyncio.Timeout) -> None:
        """Ends the answer when its client has gone."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(self._sent_at + self._ping_s):
                    while (await receive())["type"] != "http.disconnect":
                        pass
            except TimeoutError:
                if self._is_sending:  # a client that reads nothing gets no ping either
                    self._sent_at = loop.time()
                elif loop.time() >= self._sent_at + self._ping_s:
                    await self._send(send, PING)
            else:
                open_.reschedule(loop.time())
                return


def _part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}
