"""Runs the same strategies in real time, ten times as fast: real processes, a real server, the simulator.

All strategies of an account run at once, each with a key of its own at the provider, so that one minute is enough.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import redis

from benchmarks.processes import ROOT, Provider, Worker
from benchmarks.today.outcome import Made, Outcome
from benchmarks.today.script import MODEL
from benchmarks.today.strategies import STRATEGIES
from benchmarks.today.terms import SMALL, Batch, Terms, small
from benchmarks.today.virtual_time import now_s
from providers.simulator.ledger import digest
from tests.servers import RedisServer

LOOK_S = 0.02
STARTS_S = 60.0  # time for the processes to start
LIMIT_S = 600.0  # for a batch
RESTART_S = 2.0  # a worker takes three more to be ready

CONFIG = """
[redis]
url = "{redis_url}"
prefix = "{name}"
[worker]
lease = "{terms.lease_s}s"
[storage]
url = "file://{directory}/images"
[metrics]
listen = "127.0.0.1:0"
[credentials.main]
provider = "{provider}"
{wire}
base_url = "{base_url}"
api_key_env = "KEY"
[quotas.main]
in_flight = {terms.in_flight}
{images}
[routes.default]
credential = "main"
model = "{model}"
quotas = ["main"]
provider_timeout = "{terms.timeout_s}s"
"""


def run(
    account: str, strategies: Sequence[str], seed: int, *, bad_day: bool, pictures: int = SMALL
) -> list[Outcome]:
    """One batch of each strategy. On a bad day each loses a process in the middle."""
    terms = small(account, pictures)
    batch = Batch.of(terms, seed, bad_day=bad_day)
    limits = ["--in-flight", str(terms.in_flight)]
    if terms.count is not None:
        limits += ["--images", f"{terms.count}/{terms.window_s:g}s"]
    limits += ["--no-retry-after"] if terms.busy_retry_s is None else ["--latency", f"{terms.busy_retry_s:g}"]
    provider = Provider("--plain", "--timed-prompts", "--kept-pictures", "10000", *limits)
    server = RedisServer()
    try:
        stage = _Stage(batch, seed, bad_day, provider, server)
        made = asyncio.run(stage.run(strategies))
        entries = provider.ledger(entries=True)["entries"]
    finally:
        server.close()
        provider.end()
    outcomes = []
    for name in strategies:
        calls = [call for call in entries if call["key"] == digest(name.encode())]
        outcomes.append(
            Outcome(
                account=account,
                strategy=name,
                bad_day=bad_day,
                seed=seed,
                pictures=terms.pictures,
                made=len(made[name].pictures),
                refused=sum(call["status"] == 429 for call in calls),
                paid=sum(call["billed"] for call in calls),
                makespan_s=made[name].last_s - stage.began_s,
                optimum_s=batch.optimum_s,
                in_order_s=batch.in_order_s,
                clock="real",
            )
        )
    return outcomes


class _Stage:
    """The batches of one account, side by side; each strategy's name is its key."""

    began_s = 0.0

    def __init__(
        self, batch: Batch, seed: int, bad_day: bool, provider: Provider, server: RedisServer
    ) -> None:
        self._batch = batch
        self._terms: Terms = batch.terms
        self._seed = seed
        self._bad_day = bad_day
        self._root = provider.openai_url.removesuffix("/v1")
        self._server = server

    async def run(self, strategies: Sequence[str]) -> dict[str, Made]:
        """All batches, from the moment when all processes are ready."""
        made = {name: Made(self._terms.pictures) for name in strategies}
        begin = asyncio.Event()
        ready = [asyncio.Event() for _ in strategies]
        async with asyncio.timeout(STARTS_S + LIMIT_S), asyncio.TaskGroup() as work:
            for name, is_ready in zip(strategies, ready, strict=True):
                self._lose_replies(name)
                batch = self._scripts if STRATEGIES[name].run else self._pixmill
                work.create_task(batch(name, made[name], is_ready, begin))
            for is_ready in ready:
                await is_ready.wait()
            self.began_s = now_s()
            begin.set()
        return made

    def _lose_replies(self, key: str) -> None:
        for picture in self._batch.lost:
            fault = {"kind": "hang", "prompt": self._batch.name(key, picture)}
            httpx2.post(f"{self._root}/simulator/faults", json=fault, trust_env=False).raise_for_status()

    async def _scripts(self, name: str, made: Made, ready: asyncio.Event, begin: asyncio.Event) -> None:
        processes = [await self._script(name, number) for number in range(STRATEGIES[name].processes)]
        try:
            for process in processes:
                assert process.stdout is not None
                if await process.stdout.readline() != b"ready\n":
                    raise RuntimeError(f"a process of {name} did not start")
            ready.set()
            await begin.wait()
            async with asyncio.TaskGroup() as work:
                for number, process in enumerate(processes):
                    dies = self._bad_day and number == 0
                    work.create_task(self._follow(name, process, made, dies=dies))
                if self._bad_day:
                    await made.half.wait()
                    await asyncio.sleep(self._terms.kill_after_s)
                    with suppress(ProcessLookupError):  # it was quick
                        processes[0].kill()
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def _script(self, name: str, number: int) -> Process:
        options = {
            "account": self._terms.name,
            "strategy": name,
            "process": number,
            "seed": self._seed,
            "pictures": self._terms.pictures,
            "bad_day": self._bad_day,
            "root": self._root,
            "key": name,
        }
        command = [sys.executable, "-m", "benchmarks.today.script", json.dumps(options)]
        return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)

    async def _follow(self, name: str, process: Process, made: Made, *, dies: bool) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"go\n")
        async for line in process.stdout:
            made.note(int(line))
        if await process.wait() and not dies:
            raise RuntimeError(f"a process of {name} failed")

    async def _pixmill(self, name: str, made: Made, ready: asyncio.Event, begin: asyncio.Event) -> None:
        with tempfile.TemporaryDirectory(prefix="pixmill-today-") as folder:
            workers = [self._worker(name, folder) for _ in range(STRATEGIES[name].processes)]
            client: Any = redis.Redis.from_url(self._server.url, decode_responses=True)
            try:
                while not all("replica started" in worker.log() for worker in workers):
                    for worker in workers:
                        worker.check()
                    await asyncio.sleep(LOOK_S)
                ready.set()
                await begin.wait()
                self._submit(client, name)
                finished = asyncio.create_task(self._watch(client, name, made, workers))
                if self._bad_day:
                    await made.half.wait()
                    await asyncio.sleep(self._terms.kill_after_s)
                    workers.pop(0).kill()
                    await asyncio.sleep(RESTART_S)
                    workers.append(self._worker(name, folder))
                await finished
            finally:
                for worker in workers:
                    worker.end()
                client.close()

    def _worker(self, name: str, folder: str) -> Worker:
        return Worker(Path(folder), self._config(name, folder), {"KEY": name})

    def _config(self, name: str, folder: str) -> str:
        terms = self._terms
        return CONFIG.format(
            redis_url=self._server.url,
            name=name,
            terms=terms,
            directory=folder,
            provider="hunyuan" if terms.tasks else "openai",
            wire='wire = "tokenhub_async"' if terms.tasks else "",
            base_url=self._root if terms.tasks else f"{self._root}/v1",
            images=f'images = "{terms.count}/{terms.window_s:g}s"' if terms.count else "",
            model=MODEL if terms.tasks else "sim-1",
        )

    def _submit(self, client: Any, name: str) -> None:
        size = "512x512" if self._terms.tasks else "64x64"
        items = [
            {"id": str(picture), "prompt": self._batch.prompt(name, picture)}
            for picture in range(self._terms.pictures)
        ]
        payload = {
            "id": "today",
            "defaults": {"size": size, "output": {"thumbnail": False}},
            "items": items,
        }
        client.xadd(f"{name}:jobs", {"type": "pixmill.batch.v1", "data": json.dumps(payload)})

    async def _watch(self, client: Any, name: str, made: Made, workers: Sequence[Worker]) -> None:
        """Note the pictures that have succeeded, until the batch is finished."""
        group: dict[str, str] = {}
        while "finished_us" not in group:
            await asyncio.sleep(LOOK_S)
            for worker in workers:
                worker.check()
            group = client.hgetall(f"{name}:batch:default/today")
            for picture in range(len(made.pictures), int(group.get("succeeded", 0))):
                made.note(picture)
        # By the record, so that this loop's looks count for nothing.
        made.last_s = now_s() - (time.time() - int(group["finished_us"]) / 1e6)
