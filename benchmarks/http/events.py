"""A thousand listeners of one batch: how late the last one hears, and what a frame and a listener cost the gateway.

The benchmark has the listeners and publishes the events, so one clock measures both ends. An event is late by the time
from its publication until the last listener has it.
"""

from __future__ import annotations

import asyncio
import resource
import time
from typing import cast

import orjson
from redis.asyncio import Redis

from benchmarks.figures import Figure, percentile
from benchmarks.http.load import request
from benchmarks.http.options import Options
from benchmarks.http.stage import TENANT, Stage, until_quiet
from daemon.queue.queue import Queue
from daemon.queue.steps import Steps
from pixmill.records.keys import Keys, batch_gid

BATCH = "live"
HEAD = f'"tenant":"{TENANT}","job":"{BATCH}","item":"{BATCH}","batch":"{BATCH}"'
PAD = "x" * 300  # makes an event as large as a job.succeeded with one picture, half a KiB
RATE = 10.0
LATE_MS, FRAME_US, LISTENER_KB = 300.0, 40.0, 30.0
FIRST = 20  # listeners that come and go before the memory is read
AT_ONCE = 50  # connections that begin together
OPENS_S, HEARS_S = 60.0, 10.0


class Books:
    """When each event was published, how many listeners have it, and when the last of them got it."""

    def __init__(self, events: int) -> None:
        self.published = [0.0] * events
        self.heard = [0] * events
        self.last = [0.0] * events


class Listener(asyncio.Protocol):
    """Reads frames, and notes each in the books."""

    def __init__(self, data: bytes, books: Books) -> None:
        self._request = data
        self._books = books
        self._rest = b""
        self.open = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.open.done() and data.startswith(b"HTTP/") and not data.startswith(b"HTTP/1.1 200"):
            self.open.set_exception(OSError(data.decode("utf-8", "replace")))
        *frames, self._rest = (self._rest + data).split(b"\n\n")
        for frame in frames:
            _, found, number = frame.partition(b'"number":')
            if found:
                event = int(number[: number.index(b",")])
                self._books.heard[event] += 1
                self._books.last[event] = now
            elif b"retry:" in frame and not self.open.done():
                self.open.set_result(None)

    def leave(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


async def events(stage: Stage, options: Options) -> list[Figure]:
    """All listeners at once. CPU and memory are the gateway's."""
    _allow_files(2 * options.listeners + 200)
    books = Books(options.events)
    async with Redis.from_url(stage.redis_url) as redis:
        opening = {"fingerprint": "bench", "members": 1, "route": "default"}
        queue = Queue(redis, Keys("pixmill"), "bench")
        await queue.open_group(batch_gid(TENANT, BATCH), "batch", head=HEAD, **opening)  # type: ignore[arg-type]  # by name
        for listener in await _connected(stage, books, FIRST):
            listener.leave()
        await until_quiet(stage)
        before_mb = stage.rss_mb()
        listeners = await _connected(stage, books, options.listeners)
        await until_quiet(stage)
        more_mb, before_s = stage.rss_mb() - before_mb, stage.cpu_s()
        await _publish(redis, books, options.events)
        lost = await _lost(books, options)
        cost_s = stage.cpu_s() - before_s
        for listener in listeners:
            listener.leave()
    late_ms = [1000 * (last - begun) for last, begun in zip(books.last, books.published, strict=True)]
    return [
        Figure("ms p99 until the last one hears", percentile(late_ms, 99), at_most=LATE_MS),
        Figure("us CPU a frame", 1e6 * cost_s / max(1, sum(books.heard)), at_most=FRAME_US, digits=1),
        Figure("KB a listener", 1000 * more_mb / options.listeners, at_most=LISTENER_KB, digits=1),
        Figure("frames lost", lost, at_most=0),
        Figure("ms p50", percentile(late_ms, 50)),
    ]


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


async def _connected(stage: Stage, books: Books, count: int) -> list[Listener]:
    data = request(stage, "GET", f"/v1/batches/{BATCH}/events")
    limit = asyncio.Semaphore(AT_ONCE)

    async def connect() -> Listener:
        async with limit:
            loop = asyncio.get_running_loop()
            _, listener = await loop.create_connection(lambda: Listener(data, books), "127.0.0.1", stage.port)
            await asyncio.wait_for(listener.open, OPENS_S)
            return listener

    return await asyncio.gather(*(connect() for _ in range(count)))


async def _publish(redis: Redis, books: Books, count: int) -> None:
    """Events at an even pace; one that is late delays none of those that follow."""
    steps = Steps(redis, "pixmill")
    named = {"event": "job.succeeded", "tenant": TENANT, "batch": BATCH, "head": HEAD}
    began = time.perf_counter()
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
        books.published[number] = time.perf_counter()
        await steps("publish", orjson.dumps({"number": number, "pad": PAD})[1:-1], **named)


async def _lost(books: Books, options: Options) -> int:
    """How many frames have not come although they had time."""
    deadline = time.monotonic() + HEARS_S
    while (missing := options.listeners * options.events - sum(books.heard)) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return missing
