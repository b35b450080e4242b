"""How many bytes of Redis an item takes beyond its payload: queued, running and finished, alone and in a batch.

Run it as ``python -m benchmarks.item.footprint``. A real server and the real scripts of intake, claim and settle; no
provider is called. The server has the option for hashes that `pixmill up` and compose.yaml set; `--bare` leaves it
out. The payload is the JSON that the producer sent, and for a finished item that of its result as well,
once. The bytes are the growth of the server's `used_memory_dataset`; a second table shows which keys take them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from redis.asyncio import Redis

from benchmarks.processes import environment, server_version
from benchmarks.report import write
from benchmarks.venvs import BENCHMARKS
from daemon.broker.embedded import HASH_VALUE_BYTES
from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Succeeded
from limiter import Permit
from pixmill.records.keys import Keys
from tests.daemon.harness import Installation
from tests.servers import RedisServer

Shape = Literal["single", "batch"]
SHAPES: tuple[Shape, ...] = ("single", "batch")
STAGES = ("queued", "running", "finished")
GOALS = {"queued": 900, "finished": 2000}
IN_A_BATCH = 1000
AT_ONCE = 100  # items of one claim
PROMPT = (
    "Professional product photo of a ceramic mug on a pure white background, soft studio light, centred, "
    "no text, no watermark"
)


@dataclass(frozen=True)
class Row:
    """One figure over the repeats. `goal` is the most that it should be, None for one that is only to be read."""

    name: str
    payload: float
    beyond: float
    least: float
    most: float
    goal: int | None


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    facts = {"server": server_version(), "items": options.items, "repeats": options.repeats, **environment()}
    runs = [
        asyncio.run(_measured(shape, options)) for _ in range(options.repeats) for shape in options.shapes
    ]
    rows = summarise(runs)
    print(table(rows, runs))
    write(options.json, facts, summary=[asdict(row) for row in rows], runs=runs)


def summarise(runs: Sequence[dict[str, Any]]) -> list[Row]:
    """A row for each stage and shape, in the order of their first run."""
    rows = []
    for stage in STAGES:
        for shape in dict.fromkeys(run["shape"] for run in runs):
            same = [run["stages"][stage] for run in runs if run["shape"] == shape]
            beyond = [one["bytes"] - one["payload"] for one in same]
            payload = statistics.median(one["payload"] for one in same)
            figures = (statistics.median(beyond), min(beyond), max(beyond))
            rows.append(Row(f"{stage}, {shape}", payload, *figures, GOALS.get(stage)))
    return rows


def table(rows: Sequence[Row], runs: Sequence[dict[str, Any]]) -> str:
    """The figures, and for each shape the bytes an item by kind of key, in its first run."""
    lines = [f"{'bytes an item':<20}{'payload':>9}{'beyond':>9}  {'min - max':<16}goal"]
    for row in rows:
        spread = f"{row.least:,.0f} - {row.most:,.0f}"
        goal = "" if row.goal is None else f"<= {row.goal:,}"
        lines.append(f"{row.name:<20}{row.payload:>9,.0f}{row.beyond:>9,.0f}  {spread:<16}{goal}".rstrip())
    for run in {run["shape"]: run for run in reversed(runs)}.values():
        lines += ["", f"{run['shape'] + ', by key':<20}" + "".join(f"{stage:>10}" for stage in STAGES)]
        kinds = dict.fromkeys(kind for stage in STAGES for kind in run["stages"][stage]["by_key"])
        for kind in sorted(kinds):
            found = [run["stages"][stage]["by_key"].get(kind, 0) for stage in STAGES]
            if max(found) >= 1:
                lines.append(f"{kind:<20}" + "".join(f"{count:>10,.0f}" for count in found))
    return "\n".join(lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.item.footprint", description=__doc__)
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--bare", action="store_true", help="a server with the options that it has by itself")
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "footprint.json", help="where to")
    options = parser.parse_args(arguments)
    if min(options.items, options.repeats) < 1:
        parser.error("--items and --repeats begin at 1.")
    return options


async def _measured(shape: Shape, options: argparse.Namespace) -> dict[str, Any]:
    """One run on a server of its own: the bytes an item at each stage."""
    server = RedisServer(options=() if options.bare else ("--hash-max-listpack-value", str(HASH_VALUE_BYTES)))
    redis: Any = Redis.from_url(server.url)
    try:
        # The scripts, and buffers that grow once, are no part of an item.
        await _stages(redis, shape, AT_ONCE)
        await redis.execute_command("FLUSHDB", "SYNC")
        stages = await _stages(redis, shape, options.items)
    finally:
        await redis.aclose()
        server.close()
    print(f"{shape}: {options.items} items", file=sys.stderr)
    return {"shape": shape, "stages": stages}


async def _stages(redis: Redis, shape: Shape, items: int) -> dict[str, Any]:
    made = Installation(redis)
    stages: dict[str, Any] = {}
    began = await _dataset(redis)

    async def note(stage: str, payload: int) -> None:
        found = (await _dataset(redis) - began) / items
        by_key = await _by_key(redis, made.keys, items)
        stages[stage] = {"bytes": found, "payload": payload / items, "by_key": by_key}

    sent = await _accept(made, shape, items)
    await note("queued", sent)
    claimed: list[Claimed] = []
    while len(claimed) < items:
        permits = [_permit(number).to_json() for number in range(len(claimed), len(claimed) + AT_ONCE)]
        found = (await made.queue.claim("default", AT_ONCE, permits)).items
        await asyncio.gather(*map(made.queue.note_intent, found))
        claimed += found
    await note("running", sent)
    results = [_result(item.uid, shape) for item in claimed]
    settles = (made.queue.settle(i, Succeeded(r), "yes") for i, r in zip(claimed, results, strict=True))
    if set(await asyncio.gather(*settles)) != {"succeeded"}:
        raise RuntimeError("not every item has succeeded")
    await note("finished", sent + sum(len(json.dumps(result, separators=(",", ":"))) for result in results))
    return stages


async def _accept(made: Installation, shape: Shape, items: int) -> int:
    """Send the work as a producer does, and let the intake take it; returns the bytes of all jobs."""
    jobs = [{"id": f"sku-{number:05}", "prompt": PROMPT, "size": "1024x1024"} for number in range(items)]
    if shape == "single":
        for job in jobs:
            await made.add(job)
    else:
        for first in range(0, items, IN_A_BATCH):
            batch = {"id": f"autumn-{first // IN_A_BATCH}", "items": jobs[first : first + IN_A_BATCH]}
            await made.add(batch, type="pixmill.batch.v1")
    await made.take_all()
    if await made.redis.zcard(made.keys.waiting("default")) != items:
        raise RuntimeError("not every job was accepted")
    return sum(len(json.dumps(job, separators=(",", ":"))) for job in jobs)


def _permit(number: int) -> Permit:
    """A permit as that of a quota with a rate and places."""
    costs, us = {"requests": 1, "images": 1}, 1_796_059_176_000_000 + number
    quotas = ("openai-main",)
    return Permit(f"default-{number}", "worker-1", quotas, costs, quotas, f"{us:x}", (1,), us, us + 500_000)


def _result(uid: str, shape: Shape) -> dict[str, Any]:
    """A result as the worker makes it for a picture in a folder of this machine."""
    batch, item = uid.split("/")[1:]
    key = f"default/20261201/{batch if shape == 'batch' else 'single'}/{item}.png"
    image = {
        "key": key,
        "url": f"file:///var/lib/pixmill/images/{key}",
        "thumb_url": None,
        "width": 1024,
        "height": 1024,
        "bytes": 1_338_412,
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "content_type": "image/png",
        "seed": None,
    }
    times = {"queue_seconds": 12.345, "throttled_seconds": 0.0, "provider_seconds": 9.871}
    rest = ("provider_task_id", "revised_prompt", "cost", "cache", "cached_from")
    return {"images": [image], "attempts": 1, **times, **dict.fromkeys(rest)}


async def _dataset(redis: Redis) -> int:
    # The buffers of connections are no part of an item.
    await redis.connection_pool.disconnect()
    found: Any = await redis.info("memory")
    return int(found["used_memory_dataset"])


async def _by_key(redis: Redis, keys: Keys, items: int) -> dict[str, float]:
    """Bytes an item by kind of key."""
    names = [name.decode() async for name in redis.scan_iter(count=1000)]
    sums: Counter[str] = Counter()
    for page in _pages(names):
        pipe = redis.pipeline(transaction=False)
        for name in page:
            pipe.memory_usage(name, samples=0)
        for name, size in zip(page, await pipe.execute(), strict=True):
            sums[_kind(name.removeprefix(f"{keys.prefix}:"))] += int(size or 0)
    return {kind: round(size / items, 1) for kind, size in sums.most_common()}


def _pages(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(names), 1000):
        yield names[first : first + 1000]


def _kind(name: str) -> str:
    """The kind of a key by its name without the prefix; a batch's own events are a kind of their own."""
    kind, _, rest = name.partition(":")
    return "events of batches" if kind == "events" and rest else kind


if __name__ == "__main__":
    main()
