"""One run of the limiter benchmark: Redis, provider and replicas as real processes, and their reports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import redis.asyncio

from benchmarks.limiter.provider import Arrival
from benchmarks.limiter.setup import Contestant, Event, Job, Observed, Setup, understood
from benchmarks.venvs import BENCHMARKS
from limiter import Limiter, QuotaState, parse_quota
from tests.servers import RedisServer

PEERS = BENCHMARKS / "limiter" / "peers"
PREFIX = "bench"
READY_TIMEOUT_S = 60
LOOK_EVERY_S = 0.02
LEASES_LEFT_TIMEOUT_S = 20
JUST_NOW_S = 0.5
STOP_TIMEOUT_S = 15  # for calls that were sent, and releases


async def run(contestant: Contestant, setup: Setup, begun: asyncio.Event | None = None) -> Observed:
    """Set up, start all at once (then `begun` is set), wait for the end, take it down."""
    server = await asyncio.to_thread(RedisServer, persistent=setup.aof)
    jobs_server = await asyncio.to_thread(RedisServer)
    running = Running(contestant, setup, server, jobs_server)
    try:
        return await running.observe(begun or asyncio.Event())
    finally:
        await running.close()
        server.close()
        jobs_server.close()


class Running:
    """The processes of one run. The jobs have a Redis of their own, so the limiter's serves the limiter alone."""

    def __init__(
        self, contestant: Contestant, setup: Setup, server: RedisServer, jobs_server: RedisServer
    ) -> None:
        self.contestant = contestant
        self.setup = setup
        self.server = server
        self.jobs = redis.asyncio.Redis.from_url(jobs_server.url)
        self.jobs_url = jobs_server.url
        self.quotas, self.unsupported = understood(setup.quotas)
        self.replicas: list[Process] = []
        self.killed: set[int] = set()
        self.provider: Process | None = None

    async def observe(self, begun: asyncio.Event) -> Observed:
        await self._prepare()
        async with redis.asyncio.Redis.from_url(self.server.url) as client:
            await client.config_resetstat()
        cpu = _cpu_times()
        await self.ask("start")
        started = time.monotonic()
        for process in self.replicas:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        begun.set()
        happening = [asyncio.create_task(self._happen(event, started)) for event in self.setup.events]
        happening.append(asyncio.create_task(self._later_jobs(started)))
        reports, stopped = await self._reports()
        times = await asyncio.gather(*happening)
        busy = _busy(cpu, _cpu_times())
        states, left = await self._aftermath()
        # The calls of a killed replica run on at the provider, and their ends belong into the ledger.
        while (await self.ask("running"))["running"]:
            await asyncio.sleep(LOOK_EVERY_S)
        ledger = [Arrival(**fields) for fields in (await self.ask("ledger"))["ledger"]]
        return Observed(
            setup=self.setup,
            arrivals=sorted(ledger, key=lambda arrival: arrival.at_s),
            reports=reports,
            started_at_s=started,
            events_at_s={name: at_s for happened in times for name, at_s in happened.items()},
            states=states,
            leases_left=left,
            commands=await self._commands(),
            busy=busy,
            stopped=stopped,
            unsupported=self.unsupported if self.contestant.own else None,
        )

    async def ask(self, command: str) -> dict[str, Any]:
        """The provider's reply to a command of the rig."""
        self._writer.write(json.dumps({"command": command}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self._reader.readline())
        return answer

    async def close(self) -> None:
        for process in (*self.replicas, *([self.provider] if self.provider else [])):
            if process.returncode is None:
                process.kill()
                await process.wait()
        await self.jobs.aclose()

    async def _prepare(self) -> None:
        setup = self.setup
        module = ("-m", "benchmarks.limiter.provider", setup.rules.to_json())
        self.provider = await asyncio.create_subprocess_exec(
            sys.executable, *module, stdout=PIPE, cwd=BENCHMARKS.parent
        )
        assert self.provider.stdout is not None
        port = int(await self.provider.stdout.readline())
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
        await self._push([job for job in setup.jobs if not job.later_s])
        if not any(job.later_s for job in setup.jobs):
            await self.jobs.set("jobs:closed", 1)
        self.replicas = [await self._spawn(number, port) for number in range(setup.processes)]
        async with asyncio.timeout(READY_TIMEOUT_S):
            for process in self.replicas:
                assert process.stdout is not None
                if (line := await process.stdout.readline()).strip() != b"ready":
                    raise RuntimeError(f"a replica of {self.contestant.name} did not start: {line!r}")

    async def _spawn(self, number: int, port: int) -> Process:
        setup, contestant = self.setup, self.contestant
        config = {
            "gate": contestant.gate,
            "setting": contestant.setting,
            "redis_url": self.server.url,
            "jobs_url": self.jobs_url,
            "jobs_prefix": "jobs",
            "provider_port": port,
            "replica": number,
            "replicas": setup.processes,
            "tasks": setup.tasks,
            "models": {model: list(quotas) for model, quotas in setup.models.items()},
            "quotas": self.quotas,
            "options": dict(setup.options),
            "clock_offset_s": setup.clock_offsets_s[number % len(setup.clock_offsets_s)],
            "steady_after_s": setup.steady_after_s,
            "stop_after_s": setup.limit_s if setup.stop_after_s is None else setup.stop_after_s,
        }
        paths = {"PYTHONPATH": str(BENCHMARKS.parent)} if contestant.own else {}
        return await asyncio.create_subprocess_exec(
            str(contestant.python),
            str(PEERS / "replica.py"),
            json.dumps(config),
            stdin=PIPE,
            stdout=PIPE,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | paths,
            cwd=PEERS,
        )

    async def _push(self, jobs: list[Job]) -> None:
        for job in jobs:
            fields = {"id": job.id, "model": job.model, "n": job.n, "service_s": job.service_s}
            await self.jobs.rpush(f"jobs:{job.model}", json.dumps(fields))

    async def _later_jobs(self, started: float) -> dict[str, float]:
        later = sorted((job for job in self.setup.jobs if job.later_s), key=lambda job: job.later_s)
        for job in later:
            await asyncio.sleep(started + job.later_s - time.monotonic())
            await self._push([job])
        if later:
            await self.jobs.set("jobs:closed", 1)
        return {}

    async def _reports(self) -> tuple[list[dict[str, Any]], bool]:
        """The reports that were written, and whether every replica that was not killed on purpose wrote one."""
        waiting = [asyncio.create_task(self._report(number)) for number in range(len(self.replicas))]
        _, late = await asyncio.wait(waiting, timeout=self.setup.limit_s + STOP_TIMEOUT_S)
        for number, task in enumerate(waiting):
            if task in late:
                self.killed.add(number)
                self.replicas[number].kill()
        reports = await asyncio.gather(*waiting)
        return [report for report in reports if report is not None], not late

    async def _report(self, number: int) -> dict[str, Any] | None:
        process = self.replicas[number]
        assert process.stdout is not None
        line = await process.stdout.readline()
        code = await process.wait()
        if number in self.killed:
            return None
        if code or not line:
            raise RuntimeError(f"a replica of {self.contestant.name} failed (exit {code})")
        report: dict[str, Any] = json.loads(line)
        return report

    async def _happen(self, event: Event, started: float) -> dict[str, float]:
        await asyncio.sleep(started + event.at_s - time.monotonic())
        await _EVENTS[event.kind](self)
        return {event.kind: time.monotonic()}

    async def flush_scripts(self) -> None:
        async with redis.asyncio.Redis.from_url(self.server.url) as client:
            await client.script_flush()

    async def restart_redis(self) -> None:
        """Kill Redis and start it a second later from its append-only file."""
        await asyncio.to_thread(self.server.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(self.server.start)

    async def kill_holder(self) -> None:
        """SIGKILL to replica 0, at a moment when two calls of it run at the provider, one since just now."""
        while self.replicas[0].returncode is None:
            ledger = (await self.ask("ledger"))["ledger"]
            own = [
                a["at_s"]
                for a in ledger
                if a["replica"] == 0 and a["ended_at_s"] is None and a["status"] == 200
            ]
            if len(own) >= 2 and max(own) > time.monotonic() - JUST_NOW_S:
                self.killed.add(0)
                self.replicas[0].send_signal(signal.SIGKILL)
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def _aftermath(self) -> tuple[dict[str, QuotaState], int | None]:
        """The state of our limiter, once leases have had their time to end."""
        if not self.contestant.own:
            return {}, None
        async with redis.asyncio.Redis.from_url(self.server.url) as client:
            limiter = Limiter(client, PREFIX)
            quotas = [parse_quota(name, spec) for name, spec in self.quotas.items()]
            deadline = time.monotonic() + LEASES_LEFT_TIMEOUT_S
            while True:
                states = await limiter.snapshot(quotas)
                left = sum(state.in_flight for state in states)
                if not left or time.monotonic() > deadline:
                    return {state.quota: state for state in states}, left
                await asyncio.sleep(LOOK_EVERY_S)

    async def _commands(self) -> dict[str, int]:
        async with redis.asyncio.Redis.from_url(self.server.url) as client:
            stats: dict[str, Any] = await client.info("commandstats")
        return {name.removeprefix("cmdstat_"): fields["calls"] for name, fields in stats.items()}


_EVENTS = {
    "SCRIPT FLUSH": Running.flush_scripts,
    "restart": Running.restart_redis,
    "kill": Running.kill_holder,
}


def _cpu_times() -> tuple[int, int]:
    """(busy, all) ticks of the machine so far."""
    fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)


def _busy(before: tuple[int, int], after: tuple[int, int]) -> float:
    total = after[1] - before[1]
    return (after[0] - before[0]) / total if total else 0.0
