"""A trivial provider as a process: it notes when a request's first byte arrives, and answers with one picture.

``python -m benchmarks.item.first_byte`` prints its port, and then a line a request: the arrival in ns of this machine's
monotonic clock, which all its processes share.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import time

from PIL import Image

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def answer() -> bytes:
    """The reply to every request: one small picture, as OpenAI's images API sends it."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, "PNG")
    body = json.dumps({"created": 0, "data": [{"b64_json": base64.b64encode(file.getvalue()).decode()}]})
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


class Answering(asyncio.Protocol):
    """One connection; its requests come one after the other."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._got = b""
        self._at_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._at_ns = self._at_ns or time.monotonic_ns()
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or len(body) < (int(length[1]) if length else 0):
            return
        self._transport.write(self._reply)
        print(self._at_ns, flush=True)
        self._got, self._at_ns = b"", 0


async def main() -> None:
    reply = answer()
    server = await asyncio.get_running_loop().create_server(lambda: Answering(reply), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
