"""Measures the cost of a picture for a worker: CPU from request to store, and how long the event loop stands still.

Run it as ``python -m benchmarks.item.pictures``. A process of its own sends ready replies, each with a picture in
base64. The provider of the OpenAI wire reads them, and the keeper of a replica checks the pictures and writes them
into a local directory, on the loop and with the memory settings of a worker. The pictures are made; to the codecs
they look like photographs.

CPU is that of the whole process, all threads included. A ticker on the loop measures its longest stop: first of an idle
loop, which shows what the machine does to it, and then while pictures come at a steady rate. The CPU of the loop's own
thread in a stop is the part that no machine changes; the rest is its wait for a core and for the interpreter's lock.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import uvloop
from PIL import Image, ImageChops, features

from benchmarks.figures import Figure, merged, percentile, shown
from benchmarks.processes import environment
from benchmarks.report import write
from benchmarks.venvs import BENCHMARKS
from daemon.service import freeze_what_stays
from daemon.storage.gate import StorageGate
from daemon.storage.keeper import PictureKeeper
from daemon.storage.object_store import ResultStore
from daemon.telemetry.metrics import Metrics
from daemon.worker.memory import give_large_blocks_back
from pixmill.contract import Job
from pixmill.records.keys import Uid
from providers.base import Generated, Request
from providers.openai.provider import create

SIDE = 1024
TICK_S = 0.001
IDLE_S = 3.0
WARM_UP = 3  # pictures before the first measurement
PACED = "png"


@dataclass(frozen=True)
class Case:
    """A delivered picture and what its job makes of it."""

    name: str
    sends: str  # png or jpeg
    output: Mapping[str, object]
    at_most_ms: float | None = None


@dataclass(frozen=True)
class Stop:
    """How late a tick came, and the CPU that the loop's own thread took meanwhile."""

    late_ms: float
    cpu_ms: float


CASES = (
    Case("JPEG of 300 KB", "jpeg", {}, 30),
    Case("PNG of 1.3 MB", "png", {}, 90),
    Case("PNG of 1.3 MB without a thumbnail", "png", {"thumbnail": False}),
    Case("PNG of 1.3 MB to WebP", "png", {"format": "webp"}),
    Case("PNG of 1.3 MB to JPEG", "png", {"format": "jpeg"}),
    Case("JPEG of 300 KB to PNG", "jpeg", {"format": "png"}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    pictures = {"png": photograph("PNG", grain=1.3), "jpeg": photograph("JPEG", grain=6.4, quality=92)}
    facts = {**environment(), **_versions(), "bytes": {name: len(data) for name, data in pictures.items()}}
    facts["load_average_before"] = facts.pop("load_average")
    give_large_blocks_back()
    freeze_what_stays()
    runs = []
    with serving({name: _reply(data) for name, data in pictures.items()}) as url:
        for repeat in range(1, options.repeats + 1):
            figures = uvloop.run(_run(url, options))
            runs.append({"repeat": repeat, "figures": [asdict(figure) for figure in figures]})
            print(f"round {repeat} of {options.repeats}", file=sys.stderr, flush=True)
    summary = merged(runs)
    print("\n".join(shown(figure) for figure in summary))
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items()))
    write(options.json, facts, summary=summary, runs=runs)
    return 0 if all(_reached(figure) for figure in summary) else 1


def photograph(kind: str, *, grain: float, **how: Any) -> bytes:
    """A square picture in soft shades, with `grain` as the deviation of its noise, encoded as `kind`."""
    shades = [
        ImageChops.add(_noise(8, 60), _noise(64, 12), offset=-128).point(lambda value: 40 + value * 0.7)
        for _ in range(3)
    ]
    channels = [
        ImageChops.add(shade, Image.effect_noise((SIDE, SIDE), grain), offset=-128) for shade in shades
    ]
    target = io.BytesIO()
    Image.merge("RGB", channels).save(target, kind, **how)
    return target.getvalue()


def _noise(side: int, deviation: float) -> Image.Image:
    return Image.effect_noise((side, side), deviation).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


@contextmanager
def serving(replies: Mapping[str, bytes]) -> Iterator[str]:
    """A server in another process that sends `replies[name]` to each POST below /name; yields its address."""
    spawned = multiprocessing.get_context("spawn")
    ours, theirs = spawned.Pipe()
    process = spawned.Process(target=_serve, args=(theirs, dict(replies)), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(parent: Connection, replies: Mapping[str, bytes]) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            reply = replies[self.path.split("/")[1]]
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    parent.send(server.server_address[1])
    server.serve_forever()


class Stage:
    """Accounts at the server, and a keeper with a local store."""

    def __init__(self, url: str, directory: str) -> None:
        accounts = {case.sends for case in CASES}
        self._providers = {
            name: create(base_url=f"{url}/{name}/v1", secrets={"api_key": "none"}, options={})
            for name in accounts
        }
        store = ResultStore.open(f"file://{directory}")
        bell: Any = SimpleNamespace(ring_all=lambda: None)
        self._keeper = PictureKeeper(store, StorageGate(store, bell), Metrics(), _now_us)
        self._store = store
        self._numbers = count()

    async def one(self, case: Case) -> None:
        """Request a picture and keep it."""
        request = Request(request_id="r", model="gpt-image-1", prompt="a cup")
        generated = await self._providers[case.sends].submit(request, timeout_s=60)
        if not isinstance(generated, Generated) or (data := generated.pictures[0].data) is None:
            raise TypeError("the server sent no picture")
        job = Job.model_validate({"id": "a", "prompt": "a cup", "output": case.output})
        now = datetime.now(UTC)
        await self._keeper.keep((Uid("bench", "", f"i{next(self._numbers)}"), now, now), job, data, seed=None)

    async def aclose(self) -> None:
        for provider in self._providers.values():
            await provider.aclose()
        await self._store.aclose()


@asynccontextmanager
async def staged(url: str) -> AsyncIterator[Stage]:
    """A stage with an empty store."""
    with tempfile.TemporaryDirectory(prefix="pixmill-pictures-") as directory:
        stage = Stage(url, directory)
        try:
            yield stage
        finally:
            await stage.aclose()


async def _run(url: str, options: argparse.Namespace) -> list[Figure]:
    figures = {}
    for case in random.sample(CASES, len(CASES)):
        async with staged(url) as stage:
            figures[case.name] = await cpu_of(stage, case, options.pictures)
    async with staged(url) as stage:
        blocks = await blocks_at(stage, options.rate, options.seconds)
    return [figures[case.name] for case in CASES] + blocks


async def cpu_of(stage: Stage, case: Case, pictures: int) -> Figure:
    """CPU of one picture after the other."""
    for _ in range(WARM_UP):
        await stage.one(case)
    began = time.process_time()
    for _ in range(pictures):
        await stage.one(case)
    used_ms = 1000 * (time.process_time() - began) / pictures
    return Figure(f"ms CPU: {case.name}", used_ms, case.at_most_ms, digits=1)


async def blocks_at(stage: Stage, rate: float, seconds: float) -> list[Figure]:
    """The longest stops of the loop, idle and while `rate` pictures a second come."""
    case = next(case for case in CASES if case.sends == PACED)
    for _ in range(WARM_UP):
        await stage.one(case)
    idle = await _stops(asyncio.sleep(IDLE_S))
    busy = await _stops(_paced(stage, case, rate, seconds))
    name = f"ms of the loop at {rate:g} PNG/s"
    late_ms = [stop.late_ms for stop in busy]
    return [
        Figure("ms of the idle loop, longest", max(stop.late_ms for stop in idle), digits=1),
        Figure(f"{name}, p99.9", percentile(late_ms, 99.9), digits=1),
        Figure(f"{name}, longest", max(late_ms), at_most=10, digits=1),
        Figure(f"{name}, most of its own CPU at a time", max(stop.cpu_ms for stop in busy), digits=1),
    ]


async def _paced(stage: Stage, case: Case, rate: float, seconds: float) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(round(rate * seconds)):
            group.create_task(stage.one(case))
            await asyncio.sleep(1 / rate)


async def _stops(work: Coroutine[Any, Any, None]) -> list[Stop]:
    """The stops of the loop while `work` was under way."""
    stops: list[Stop] = []

    async def tick() -> None:
        while True:
            began, used = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK_S)
            late_s = max(0.0, time.perf_counter() - began - TICK_S)
            stops.append(Stop(1000 * late_s, 1000 * (time.thread_time() - used)))

    ticking = asyncio.create_task(tick())
    try:
        await work
    finally:
        ticking.cancel()
    return stops


async def _now_us() -> int:
    return time.time_ns() // 1000


def _reply(data: bytes) -> bytes:
    return orjson.dumps({"created": 1760000000, "data": [{"b64_json": base64.b64encode(data).decode()}]})


def _reached(figure: Mapping[str, Any]) -> bool:
    return figure["at_most"] is None or figure["value"] <= figure["at_most"]


def _versions() -> dict[str, Any]:
    libraries = {name: features.version(name) for name in ("webp", "zlib", "zlib_ng", "libjpeg_turbo")}
    packages = {name: version(name) for name in ("pillow", "orjson", "obstore", "uvloop", "httpx2")}
    return {**packages, **libraries}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.item.pictures", description=__doc__)
    parser.add_argument("--pictures", type=int, default=20, help="of each kind, a round")
    parser.add_argument("--rate", type=float, default=5, help="PNG a second while the loop is watched")
    parser.add_argument("--seconds", type=float, default=10, help="for which the loop is watched, a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "pictures.json", help="where to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
