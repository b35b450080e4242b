"""Measures the cost of a paced item for the server: CPU of its scripts and commands, and the longest run of a script.

Run it as ``python -m benchmarks.item.paced``. An item is accepted, gets its permit under one quota, is claimed, has its
intent noted, is released and settled; there is a pause between two items, as under a quota. Items whose slot is `now`
have permit, claim and intent in one script; for a slot `ahead` the permit is a script of its own. A script's time is
the server's (`INFO commandstats`). `CPU` is the whole server's, with network and parsing, less what it uses idle. The
longest runs are from `SLOWLOG`; they include rounds of as many items as a replica sends at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import Redis

from benchmarks.item.lua import SCRIPT_NAMES
from benchmarks.processes import environment, server_version
from benchmarks.report import write
from benchmarks.venvs import BENCHMARKS
from daemon.queue.messages import Claim, Claimed, NewItem, PermitRequest
from daemon.queue.outcomes import Succeeded
from daemon.queue.queue import Queue
from daemon.queue.steps import MOST
from limiter import Grant, Limiter, Permit, parse_quota
from pixmill.records.keys import Keys
from tests.servers import RedisServer

T = TypeVar("T")

QUOTA = parse_quota("account", {"images": "2000/min", "in_flight": 8})
SPEC = json.dumps(
    {
        "id": "job",
        "tenant": "default",
        "prompt": "a studio photograph of a ceramic cup on a wooden table, soft light from the left",
        "route": "default",
    }
).encode()
IMAGE = {
    "url": "s3://pictures/default/2026/12/01/job.png",
    "bytes": 1_300_000,
    "sha256": "a" * 64,
    "format": "png",
}
RESULT = Succeeded(
    {"images": [IMAGE | {"width": 1024, "height": 1024}], "attempts": 1, "provider_seconds": 9.8}
)
INTAKE_ROUND = 64
MODES = ("now", "ahead")


@dataclass(frozen=True)
class Row:
    """The server's µs for one step of an item: the median and the mean of all calls."""

    mode: str
    step: str
    median_us: float
    mean_us: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    facts = {**environment(), "server": server_version(), "items": options.items, "pause_s": options.pause}
    measured = asyncio.run(_measure(options.items, options.pause))
    rows = summarise(measured["steps"])
    print(table(rows, measured))
    print("\n" + ", ".join(f"{name} {value}" for name, value in facts.items()))
    summary = {key: measured[key] for key in ("cpu_us", "longest_us")} | {
        "steps": [asdict(row) for row in rows]
    }
    write(options.json, facts, summary=[summary], runs=[measured])


def summarise(steps: dict[str, dict[str, list[int]]]) -> list[Row]:
    """One row for each step of each mode, and one for their sum."""
    rows = []
    for mode, measured in steps.items():
        each = [
            Row(mode, step, statistics.median(values), statistics.mean(values))
            for step, values in measured.items()
        ]
        total = Row(mode, "all", sum(row.median_us for row in each), sum(row.mean_us for row in each))
        rows += [*each, total]
    return rows


def table(rows: Sequence[Row], measured: dict[str, Any]) -> str:
    """The figures as plain text."""
    lines = [f"{'slot':<8}{'step':<24}{'median us':>10}{'mean us':>10}"]
    lines += [f"{row.mode:<8}{row.step:<24}{row.median_us:>10.0f}{row.mean_us:>10.0f}" for row in rows]
    lines += [f"CPU of an item, slot {mode}: {us:.0f} us" for mode, us in measured["cpu_us"].items()]
    longest = sorted(measured["longest_us"].items(), key=lambda one: -one[1])
    lines += ["longest run, us: " + ", ".join(f"{name} {us}" for name, us in longest)]
    return "\n".join(lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.item.paced", description=__doc__)
    parser.add_argument("--items", type=int, default=300, help="of each mode")
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between two items")
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "paced.json", help="where to")
    options = parser.parse_args(arguments)
    if options.items < 1 or options.pause < 0:
        parser.error("--items begins at 1, --pause at 0.")
    return options


async def _measure(items: int, pause_s: float) -> dict[str, Any]:
    server = await asyncio.to_thread(RedisServer)
    client: Any = Redis.from_url(server.url)
    try:
        steps = {mode: await _steps(client, mode, items) for mode in MODES}
        cpu_us = {mode: await _cpu_us(client, mode, items, pause_s) for mode in MODES}
        return {"steps": steps, "cpu_us": cpu_us, "longest_us": await _longest_us(client, items)}
    finally:
        await client.aclose()
        server.close()


class Line:
    """The way of one item after the other; `timed` gets each step's name and call."""

    def __init__(self, client: Any, mode: str) -> None:
        self._queue = Queue(client, Keys("pixmill"), "worker")
        self._limiter = Limiter(client, "pixmill")
        self._mode = mode
        self._number = 0

    async def begin(self) -> None:
        await self._queue.install(records_s=86_400, failed_s=7 * 86_400, starts=True)

    def new(self, count: int) -> list[NewItem]:
        numbers = range(self._number, self._number + count)
        self._number += count
        return [_item(number) for number in numbers]

    async def item(self, timed: Any) -> None:
        """One item from its acceptance to its settle."""
        new = self.new(1)
        await timed("accept", self._queue.accept(new))
        permit, item = await (self._now(timed) if self._mode == "now" else self._ahead(timed))
        await timed("release", self._limiter.release(permit))
        state = await timed("settle", self._queue.settle(item, RESULT, "yes"))
        assert state == "succeeded"

    async def rounds(self, count: int) -> None:
        """Rounds of as many items as a replica sends at once."""
        for _ in range(count):
            await self._queue.accept(self.new(INTAKE_ROUND))
            while items := (await self._queue.claim("default", MOST)).items:
                await asyncio.gather(*(self._queue.settle(item, RESULT, "yes") for item in items))

    async def _now(self, timed: Any) -> tuple[Permit, Claimed]:
        claims: list[Claim] = []

        async def step(keys: Sequence[str], args: Sequence[str | int], permit: Permit) -> Sequence[Any]:
            request = PermitRequest(keys, args, permit.to_json(), 3600.0)
            claims.append(await self._queue.claim("default", 1, intends=True, request=request))
            return claims[0].requested

        grant = await timed("permit, claim, intent", self._acquire(step=step))
        return grant.permit, claims[0].items[0]

    async def _ahead(self, timed: Any) -> tuple[Permit, Claimed]:
        grant = await timed("permit", self._acquire())
        permits = [grant.permit.to_json()]
        claim = await timed("claim, intent", self._queue.claim("default", 1, permits, intends=True))
        return grant.permit, claim.items[0]

    async def _acquire(self, **more: Any) -> Grant:
        name = f"r{self._number}"
        reply = await self._limiter.acquire(
            [QUOTA], holder="w/default", request_id=name, max_wait_s=3600, **more
        )
        assert isinstance(reply, Grant)
        return reply


def _item(number: int) -> NewItem:
    name = f"job-{number}"
    head = f'"tenant":"default","job":"{name}","item":"{name}","batch":null'
    return NewItem(f"default//{name}", "", "", "default", "normal", head, SPEC, "f" * 64, None, None, 3, "")


async def _steps(client: Any, mode: str, items: int) -> dict[str, list[int]]:
    """The server's µs of each call, by step."""
    await client.flushall()
    measured: dict[str, list[int]] = defaultdict(list)

    async def timed(step: str, call: Awaitable[T]) -> T:
        before_us = await _scripts_us(client)
        result = await call
        measured[step].append(await _scripts_us(client) - before_us)
        return result

    line = Line(client, mode)
    await line.begin()
    for _ in range(items + 20):
        await line.item(timed)
    return {step: values[20:] for step, values in measured.items()}  # without the calls that load a script


async def _cpu_us(client: Any, mode: str, items: int, pause_s: float) -> float:
    """The server's CPU for an item, with pauses between two items, less the same time without items."""
    await client.flushall()
    line = Line(client, mode)
    await line.begin()

    async def plainly(_step: str, call: Awaitable[T]) -> T:
        return await call

    began_s = await _cpu_s(client)
    for _ in range(items):
        await line.item(plainly)
        await asyncio.sleep(pause_s)
    used_s = await _cpu_s(client) - began_s
    await asyncio.sleep(items * pause_s)
    idle_s = await _cpu_s(client) - began_s - used_s
    return (used_s - idle_s) / items * 1e6


async def _longest_us(client: Any, items: int) -> dict[str, int]:
    """The longest run of each script, alone and in full rounds."""
    await client.flushall()
    line = Line(client, "ahead")
    await line.begin()
    await line.rounds(1)  # loads the scripts
    await client.config_set("slowlog-max-len", 100_000)
    await client.config_set("slowlog-log-slower-than", 0)

    async def plainly(_step: str, call: Awaitable[T]) -> T:
        return await call

    longest: dict[str, int] = {}
    for mode in MODES:
        line._mode = mode  # noqa: SLF001
        for _ in range(items):
            await line.item(plainly)
        await _note_longest(client, longest)
    for _ in range(10):
        await line.rounds(1)
        await _note_longest(client, longest)
    return longest


async def _note_longest(client: Any, longest: dict[str, int]) -> None:
    """Note the longest runs since the last call, and forget them on the server."""
    for entry in await client.slowlog_get(-1):
        word, _, rest = entry["command"].decode().partition(" ")
        if word == "EVALSHA":
            name = SCRIPT_NAMES.get(rest.partition(" ")[0], rest)
            longest[name] = max(longest.get(name, 0), entry["duration"])
    await client.slowlog_reset()


async def _scripts_us(client: Any) -> int:
    stats = await client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{command}", {}).get("usec", 0)) for command in ("evalsha", "eval"))


async def _cpu_s(client: Any) -> float:
    used = await client.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


if __name__ == "__main__":
    main()
