"""A thousand listeners of one batch: how late the last one hears, and what a frame and a listener cost the gateway.

Run it as ``python -m benchmarks.http_events``. The gateway is the real command in a process of its own, on a core of
its own where the system can do that. This process has the listeners and publishes the events, so one clock measures
both ends. An event is late by the time from its publication until the last listener has it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import httpx2
import orjson
import uvloop
from redis.asyncio import Redis

from benchmarks.processes import ROOT, environment
from benchmarks.venvs import BENCHMARKS
from daemon.queue.keys import Keys
from daemon.queue.queue import Queue
from daemon.queue.steps import Steps
from tests.servers import RedisServer, free_port

BATCH = "bench"
HEAD = f'"tenant":"default","job":"{BATCH}","item":"{BATCH}","batch":"{BATCH}"'
PAD = "x" * 300  # makes an event as large as a job.succeeded with one picture, half a KiB
GOAL_LATE_MS, GOAL_FRAME_US, GOAL_LISTENER_KB = 300.0, 40.0, 30.0
FIRST = 20  # listeners that come and go before the memory is read
AT_ONCE = 50  # connections that begin together
STARTS_S = 60.0
SETTLES_S = 2.0
CONFIG = """
[redis]
url = "{redis_url}"
[storage]
url = "file://{directory}/images"
[metrics]
listen = "127.0.0.1:0"
[gateway]
listen = "127.0.0.1:{port}"
[credentials.main]
provider = "openai"
api_key_env = "BENCH_API_KEY"
[routes.default]
credential = "main"
model = "gpt-image-1"
"""


@dataclass(frozen=True)
class Figures:
    """One run. CPU and memory are the gateway's alone."""

    listeners: int
    events: int
    events_per_s: float
    pinned: bool
    frames: int
    late_p50_ms: float
    late_p99_ms: float
    cpu_us_per_frame: float
    kb_per_listener: float
    rss_mb: float

    @property
    def reached(self) -> bool:
        """Whether every listener had every event, within the goals."""
        return (
            self.frames == self.listeners * self.events
            and self.late_p99_ms <= GOAL_LATE_MS
            and self.cpu_us_per_frame <= GOAL_FRAME_US
            and self.kb_per_listener <= GOAL_LISTENER_KB
        )


class Gateway:
    """The real command. `pinned`: it has the first core, and this process the others."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        self.port = free_port()
        path = directory / "pixmill.toml"
        path.write_text(CONFIG.format(redis_url=redis_url, directory=directory, port=self.port))
        self._log = (directory / "gateway.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "daemon", "gateway", "--config", str(path), "--log-level", "warning"],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), "BENCH_API_KEY": "bench"},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.pinned = self._pin()

    def _pin(self) -> bool:
        if not hasattr(os, "sched_setaffinity"):
            return False
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            return False
        os.sched_setaffinity(self._process.pid, cores[:1])
        os.sched_setaffinity(0, cores[1:])
        return True

    async def ready(self) -> None:
        """Wait until it serves."""
        deadline = time.monotonic() + STARTS_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                if (
                    httpx2.get(f"http://127.0.0.1:{self.port}/v1/jobs/none", trust_env=False).status_code
                    == 404
                ):
                    return
            except httpx2.TransportError:
                await asyncio.sleep(0.1)
        self._log.seek(0)
        sys.exit(f"the gateway does not serve:\n{self._log.read()[-3000:]}")

    def cpu_s(self) -> float:
        """CPU seconds until now."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_kb(self) -> float:
        """Its memory now, in thousands of bytes."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1000

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()


class Books:
    """When each event was published, how many listeners have it, and when the last of them got it."""

    def __init__(self, events: int) -> None:
        self.published = [0.0] * events
        self.heard = [0] * events
        self.last = [0.0] * events


class Listener(asyncio.Protocol):
    """Reads frames, and notes each in the books."""

    def __init__(self, request: bytes, books: Books) -> None:
        self._request = request
        self._books = books
        self._rest = b""
        self.open = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self.transport.write(self._request)

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


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    _allow_files(2 * options.listeners + 200)
    server = RedisServer()
    try:
        with tempfile.TemporaryDirectory(prefix="pixmill-http-") as directory:
            gateway = Gateway(Path(directory), server.url)
            try:
                figures = uvloop.run(_measured(server, gateway, options))
            finally:
                gateway.end()
    finally:
        server.close()
    print(table(figures))
    document = {"environment": environment(), "figures": asdict(figures), "reached": figures.reached}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if figures.frames == figures.listeners * figures.events else 1


def table(figures: Figures) -> str:
    """The figures as plain text."""
    lost = figures.listeners * figures.events - figures.frames
    rows = [
        ("listeners", f"{figures.listeners:,} of one batch, {figures.events_per_s:g} events a second"),
        ("frames", f"{figures.frames:,}" + (f"; {lost:,} LOST" if lost else "")),
        (
            "late",
            f"p50 {figures.late_p50_ms:.0f} ms, p99 {figures.late_p99_ms:.0f} ms at the last listener "
            f"(goal {GOAL_LATE_MS:g})",
        ),
        ("CPU", f"{figures.cpu_us_per_frame:.1f} us a frame (goal {GOAL_FRAME_US:g})"),
        (
            "memory",
            f"{figures.kb_per_listener:.1f} KB a listener (goal {GOAL_LISTENER_KB:g}); {figures.rss_mb:.0f} MB in all",
        ),
    ]
    return "\n".join(f"{name:<10}{value}" for name, value in rows)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http_events", description=__doc__)
    parser.add_argument("--listeners", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=10.0, help="events a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "http_events.json", help="where to")
    options = parser.parse_args(arguments)
    if options.listeners < 1 or options.rate <= 0 or options.rate * options.seconds < 1:
        parser.error("--listeners begins at 1, and --rate times --seconds too.")
    return options


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


async def _measured(server: RedisServer, gateway: Gateway, options: argparse.Namespace) -> Figures:
    await gateway.ready()
    redis = Redis.from_url(server.url)
    await Queue(redis, Keys("pixmill"), "bench").open_group(
        f"default/{BATCH}", "batch", head=HEAD, fingerprint="bench", members=1, route="default"
    )
    events = round(options.rate * options.seconds)
    books = Books(events)
    for listener in await _connected(gateway, books, FIRST):
        _leave(listener)
    await asyncio.sleep(SETTLES_S)
    before_kb = gateway.rss_kb()
    listeners = await _connected(gateway, books, options.listeners)
    await asyncio.sleep(SETTLES_S)
    per_listener_kb = (gateway.rss_kb() - before_kb) / options.listeners
    cpu_s = gateway.cpu_s()
    await _publish(redis, books, events, options.rate)
    await asyncio.sleep(SETTLES_S)
    cpu_s = gateway.cpu_s() - cpu_s
    for listener in listeners:
        _leave(listener)
    await redis.aclose()
    late_ms = [1000 * (last - begun) for last, begun in zip(books.last, books.published, strict=True)]
    frames = sum(books.heard)
    return Figures(
        listeners=options.listeners,
        events=events,
        events_per_s=options.rate,
        pinned=gateway.pinned,
        frames=frames,
        late_p50_ms=statistics.median(late_ms),
        late_p99_ms=sorted(late_ms)[max(0, round(0.99 * events) - 1)],
        cpu_us_per_frame=1e6 * cpu_s / max(1, frames),
        kb_per_listener=per_listener_kb,
        rss_mb=gateway.rss_kb() / 1000,
    )


async def _connected(gateway: Gateway, books: Books, count: int) -> list[Listener]:
    request = f"GET /v1/batches/{BATCH}/events HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\n\r\n".encode()
    limit = asyncio.Semaphore(AT_ONCE)

    async def connect() -> Listener:
        async with limit:
            loop = asyncio.get_running_loop()
            _, listener = await loop.create_connection(
                lambda: Listener(request, books), "127.0.0.1", gateway.port
            )
            await asyncio.wait_for(listener.open, STARTS_S)
            return listener

    return await asyncio.gather(*(connect() for _ in range(count)))


def _leave(listener: Listener) -> None:
    if listener.transport is not None:
        listener.transport.close()


async def _publish(redis: Redis, books: Books, events: int, rate: float) -> None:
    """Events at an even pace; one that is late delays none of those that follow."""
    steps = Steps(redis, "pixmill")
    named = {"event": "job.succeeded", "tenant": "default", "batch": BATCH, "head": HEAD}
    began = time.perf_counter()
    for number in range(events):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        books.published[number] = time.perf_counter()
        await steps("publish", orjson.dumps({"number": number, "pad": PAD})[1:-1], **named)


if __name__ == "__main__":
    sys.exit(main())
