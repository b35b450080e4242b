"""One replica of the limiter benchmark: takes jobs from a shared list and makes calls, through a gate.

Run as ``python replica.py CONFIG_JSON`` in the contestant's environment. It prints ``ready`` when everything is
connected, starts at the line ``go`` on its standard input, and at the end prints its report as a line of JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import json
import sys
import time
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.connection
import redis.utils
import uvloop
from gate import Config, Gate, Job

LOOK_EVERY_S = 0.05
# The errors of an outage of Redis; every contestant may try again after them.
AWAY = (redis.ConnectionError, redis.TimeoutError, OSError)
ERRORS_KEPT = 5


@dataclass
class Report:
    """The figures that the provider's ledger cannot have."""

    done: int = 0
    away: int = 0  # calls that found Redis gone
    errors: int = 0  # exceptions that the limiter let out otherwise
    error_texts: list[str] = field(default_factory=list)
    redis_calls: int = 0  # round trips, without the handshakes of connections, until the stop
    # The same counts at `steady_after_s` of the run: as many places were taken ahead then as at the end.
    early_done: int = 0
    early_redis_calls: int = 0


class Replica:
    """The worker loop, the same for all gates."""

    def __init__(self, config: Config, gate: Gate, report: Report) -> None:
        self._config = config
        self._gate = gate
        self._report = report
        self._jobs = redis.asyncio.Redis.from_url(config.jobs_url)
        self._acquiring: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def prepare(self) -> list[asyncio.Task[None]]:
        """Connect everything; the tasks begin at the `go`."""
        await self._jobs.ping()
        await self._gate.open()
        self._go = asyncio.Event()
        streams = {
            (model, number): await asyncio.open_connection("127.0.0.1", self._config.provider_port)
            for model in self._config.models
            for number in range(self._config.tasks)
        }
        return [asyncio.create_task(self._work(model, *pair)) for (model, _), pair in streams.items()]

    async def run(self, tasks: list[asyncio.Task[None]]) -> None:
        """From `go` until the jobs are done or it is time to stop; calls that were sent are always awaited."""
        self._go.set()
        early = asyncio.create_task(self._note_early())
        await asyncio.wait(tasks, timeout=self._config.stop_after_s)
        early.cancel()
        self._stopping = True
        calls = self._report.redis_calls
        for task in self._acquiring:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        self._report.redis_calls = calls  # not the permits that the stop made superfluous
        await self._gate.close()
        await self._jobs.aclose()

    async def _note_early(self) -> None:
        if self._config.steady_after_s:
            await asyncio.sleep(self._config.steady_after_s)
            self._report.early_done = self._report.done
            self._report.early_redis_calls = self._report.redis_calls

    async def _work(self, model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._go.wait()
        while (job := await self._next(model)) is not None:
            attempt = 0
            while not await self._attempted(job, attempt, reader, writer):
                attempt += 1
        writer.close()

    async def _next(self, model: str) -> Job | None:
        prefix = self._config.jobs_prefix
        while not self._stopping:
            text = await self._jobs.lpop(f"{prefix}:{model}")
            if text is not None:
                return Job(**json.loads(text))
            if await self._jobs.exists(f"{prefix}:closed"):
                return None
            await asyncio.sleep(LOOK_EVERY_S)
        return None

    async def _attempted(
        self, job: Job, attempt: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """One call; True when the job is finished with."""
        permit = await self._permit(job, attempt)
        call = {"job": job.id, "model": job.model, "n": job.n, "service_s": job.service_s}
        writer.write(json.dumps(call | {"replica": self._config.replica}).encode() + b"\n")
        reply = json.loads(await reader.readline())
        if reply["status"] == 429:
            await self._insist(lambda: self._gate.refused(permit, reply["retry_after_s"]))
        await self._insist(lambda: self._gate.release(permit))
        if reply["status"] == 429:
            return self._stopping
        self._report.done += 1
        return True

    async def _permit(self, job: Job, attempt: int) -> Any:
        task = asyncio.current_task()
        assert task is not None
        if self._stopping:
            raise asyncio.CancelledError
        self._acquiring.add(task)
        try:
            return await self._insist(lambda: self._gate.acquire(job, attempt))
        finally:
            self._acquiring.discard(task)

    async def _insist(self, call: Any) -> Any:
        """The call's result, after any number of tries: a service goes on when its Redis is back."""
        while True:
            try:
                return await call()
            except Exception as error:
                self._note(error)
            await asyncio.sleep(LOOK_EVERY_S)

    def _note(self, error: Exception) -> None:
        # Some libraries wrap redis-py's error in an exception of their own.
        if isinstance(error, AWAY) or isinstance(error.__cause__ or error.__context__, AWAY):
            self._report.away += 1
            return
        self._report.errors += 1
        if len(self._report.error_texts) < ERRORS_KEPT:
            self._report.error_texts.append(f"{type(error).__name__}: {error}")


def count_calls(report: Report) -> None:
    """Count the sends of every redis-py connection of this process; a pipeline is one call."""
    cls = redis.asyncio.connection.AbstractConnection
    connecting: ContextVar[bool] = ContextVar("connecting", default=False)
    send, connect = cls.send_packed_command, cls.connect_check_health

    async def counted(self: Any, *args: Any, **options: Any) -> None:
        if not connecting.get() and self.port == limiter_port:
            report.redis_calls += 1
        await send(self, *args, **options)

    async def uncounted(self: Any, *args: Any, **options: Any) -> None:
        token = connecting.set(True)
        try:
            await connect(self, *args, **options)
        finally:
            connecting.reset(token)

    limiter_port = int(CONFIG.redis_url.rpartition(":")[2].partition("/")[0])
    cls.send_packed_command, cls.connect_check_health = counted, uncounted


def shift_clock(offset_s: float) -> None:
    """Make this process believe in another time of day, as Python code sees it. Before the library is imported."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + offset_s
    time.time_ns = lambda: now_ns() + round(offset_s * 1e9)


async def main(config: Config) -> None:
    if not redis.utils.HIREDIS_AVAILABLE:
        sys.exit(f"{config.gate}: hiredis is not installed here, the comparison would not be fair.")
    report = Report()
    gate: Gate = importlib.import_module(f"{config.gate}_gate").GATE(config)
    replica = Replica(config, gate, report)
    count_calls(report)
    tasks = await replica.prepare()
    report.redis_calls = 0
    print("ready", flush=True)
    line = await asyncio.to_thread(sys.stdin.readline)
    if line.strip() == "go":
        await replica.run(tasks)
    versions = {"version": importlib.metadata.version(gate.distribution), "redis_py": redis.__version__}
    print(json.dumps(vars(report) | versions | {"notes": gate.notes}), flush=True)


if __name__ == "__main__":
    CONFIG = Config(**json.loads(sys.argv[1]))
    if CONFIG.clock_offset_s:
        shift_clock(CONFIG.clock_offset_s)
    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(CONFIG))
