"""A provider for tests with real replicas: runs weighed jobs for their whole time, also when its caller is gone.

It listens on a loopback port of the test's own process, so no kill and no stop of a replica touches what it counts.
One line a message: `start TASK WEIGHT SECONDS` is answered `accepted` and, at the end of the job, `ended`; `wait TASK`
is answered `ended` when that job has ended, by whichever replica, or `unknown`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass
class CrashProvider:
    """`most` is the largest weight that ever ran at once; `tasks` are the ends of all jobs it was ever given."""

    running: int = 0
    most: int = 0
    tasks: dict[str, asyncio.Event] = field(default_factory=dict)
    _jobs: set[asyncio.Task[None]] = field(default_factory=set)

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                what, task, *rest = line.decode().split()
                if what == "start":
                    self._start(task, int(rest[0]), float(rest[1]))
                    writer.write(b"accepted\n")
                if task in self.tasks:
                    await self.tasks[task].wait()
                writer.write(b"ended\n" if task in self.tasks else b"unknown\n")
                await writer.drain()
        except ConnectionError:
            pass  # a replica died; its job goes on
        finally:
            writer.close()

    def _start(self, task: str, weight: int, seconds: float) -> None:
        self.tasks[task] = asyncio.Event()
        self.running += weight
        self.most = max(self.most, self.running)
        job = asyncio.create_task(self._run(task, weight, seconds))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _run(self, task: str, weight: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.running -= weight
        self.tasks[task].set()
