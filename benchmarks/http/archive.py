"""The archive of a batch of large pictures: how fast it comes, and how much memory it takes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from typing import Any, cast

from redis.asyncio import Redis

from benchmarks.figures import Figure
from benchmarks.http.load import at_once, request
from benchmarks.http.options import Options
from benchmarks.http.stage import TENANT, UNSERVED, Stage, until_quiet
from daemon.queue.outcomes import Succeeded
from daemon.queue.queue import Queue
from pixmill.records.keys import Keys

BATCH = "large"
PICTURE_BYTES = 1_500_000
DIFFERENT = 20  # contents; the other files are links to them
MORE_MB, MB_PER_S = 40.0, 150.0
_END = b"0\r\n\r\n"


async def archive(stage: Stage, options: Options) -> list[Figure]:
    """A whole archive. Its pictures are in the system's cache, since they were written a moment before."""
    await _made(stage, options.pictures)
    # One picture first, so that memory of the first use is not counted.
    await at_once(stage, [request(stage, "GET", f"/v1/batches/{BATCH}/items/i0/images/0")], 200)
    await until_quiet(stage)
    stage.forget_peak()
    before_mb, before_s = stage.rss_mb(), stage.cpu_s()
    size, took_s, first_s = await _fetched(stage)
    cost_s, more_mb = stage.cpu_s() - before_s, stage.rss_mb(peak=True) - before_mb
    whole = size >= options.pictures * PICTURE_BYTES
    return [
        Figure("MB more memory", more_mb, at_most=MORE_MB),
        Figure("MB/s", size / 1e6 / took_s, at_least=MB_PER_S),
        Figure("broken", not whole, at_most=0),
        Figure("ms CPU a picture", 1000 * cost_s / options.pictures, digits=2),
        Figure("s to the first byte", first_s, digits=2),
    ]


async def _made(stage: Stage, pictures: int) -> None:
    """A batch of finished pictures. The provider takes no part."""
    items = [{"id": f"i{number}"} for number in range(pictures)]
    body = {"id": BATCH, "defaults": {"prompt": "a kettle", "route": UNSERVED}, "items": items}
    load = await at_once(stage, [request(stage, "POST", "/v1/batches", body)], 202)
    if load.failed or not load.bodies:
        raise RuntimeError(f"the batch was not accepted: {load.bodies}")
    images = await asyncio.to_thread(_written, stage, pictures)
    async with Redis.from_url(stage.redis_url) as redis:
        queue = Queue(redis, Keys("pixmill"), "bench")
        left = dict(images)
        while left:
            claimed = (await queue.claim(UNSERVED, 100)).items
            results = [_result(left.pop(item.uid.rpartition("/")[2])) for item in claimed]
            pairs = zip(claimed, results, strict=True)
            await asyncio.gather(*(queue.settle(item, result, "no") for item, result in pairs))


def _result(image: dict[str, Any]) -> Succeeded:
    times = {"queue_seconds": 0.0, "throttled_seconds": 0.0, "provider_seconds": 0.0}
    unknown = {"provider_task_id": None, "revised_prompt": None, "cost": None}
    return Succeeded({"images": [image], "attempts": 1, **times, **unknown})


def _written(stage: Stage, pictures: int) -> dict[str, dict[str, Any]]:
    """The pictures by their items' ids. No file is read as a picture, so their bytes may be any."""
    folder = stage.images / TENANT / "20261130" / BATCH
    folder.mkdir(parents=True)
    digests: list[str] = []
    images = {}
    for number in range(pictures):
        path = folder / f"i{number}.png"
        if number < DIFFERENT:
            data = os.urandom(PICTURE_BYTES)
            path.write_bytes(data)
            digests.append(hashlib.sha256(data).hexdigest())
        else:
            os.link(folder / f"i{number % DIFFERENT}.png", path)
        images[f"i{number}"] = {
            "key": str(path.relative_to(stage.images)),
            "url": None,
            "thumb_url": None,
            "width": 1024,
            "height": 1024,
            "bytes": PICTURE_BYTES,
            "sha256": digests[number % DIFFERENT],
            "content_type": "image/png",
            "seed": None,
        }
    return images


class _Counter(asyncio.Protocol):
    """Counts what comes, without keeping it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = 0
        self.first_at = 0.0
        self._last = b""
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._data)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        if not self.size:
            self.first_at = time.perf_counter()
            if not data.startswith(b"HTTP/1.1 200"):
                self.whole.set_exception(RuntimeError(f"no archive: {data[:500]!r}"))
        self.size += len(data)
        self._last = (self._last + data)[-len(_END) :] if len(data) < len(_END) else data[-len(_END) :]
        if self._last == _END and not self.whole.done():
            self.whole.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.whole.done():
            self.whole.set_exception(exc or ConnectionError("the archive ended early"))


async def _fetched(stage: Stage) -> tuple[int, float, float]:
    """The size of the archive with its framing, the seconds that it took, and those until its first byte."""
    data = request(stage, "GET", f"/v1/batches/{BATCH}/archive.zip")
    began = time.perf_counter()
    transport, counter = await asyncio.get_running_loop().create_connection(
        lambda: _Counter(data), "127.0.0.1", stage.port
    )
    await counter.whole
    took_s = time.perf_counter() - began
    transport.close()
    return counter.size, took_s, counter.first_at - began
