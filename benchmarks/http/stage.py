"""A gateway on a core of its own; the other core has a worker, the provider, Redis and the clients.

Where the system cannot pin processes, or has one core, all share what there is, and the results say so.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from benchmarks.processes import CONFIG, Provider, Worker
from daemon.gateway.callers.keys_file import add_key
from tests.servers import RedisServer, free_port

STARTS_S = 60.0
LATENCY_S = 3.0  # of the simulated provider
TENANT = "bench"
DOORS = ("jobs", "openai", "pictures")  # each has a bucket of its own, which is full at its start
UNSERVED = "archive"  # a route that the gateway knows and the worker does not
ACCOUNTS = """
[gateway]
listen = "127.0.0.1:{port}"
keys_file = "{keys_file}"
[credentials.main]
provider = "openai"
base_url = "{base_url}"
api_key_env = "BENCH_API_KEY"
[quotas.slow]
images = "{pace}/s"
[routes.default]
credential = "main"
model = "gpt-image-1"
quotas = ["slow"]
"""
PREVIEWS = """
[quotas.{door}]
images = {{ rate = "20/min", burst = 4 }}
[routes.{door}]
credential = "main"
model = "gpt-image-1"
quotas = ["{door}"]
"""
FURTHER = """
[routes.{route}]
credential = "main"
model = "gpt-image-1"
"""


@dataclass(frozen=True)
class Stage:
    """Everything that runs. `pinned`: the gateway has a core for itself."""

    gateway: Worker
    worker: Worker
    redis_url: str
    images: Path  # the directory of the pictures
    port: int
    key: str
    pinned: bool

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """CPU seconds of the gateway until now."""
        self.gateway.check()
        return self.gateway.cpu_s() or 0.0

    def rss_mb(self, *, peak: bool = False) -> float:
        """The memory of the gateway in 10^6 bytes: now, or at its highest since `forget_peak`."""
        name = "VmHWM:" if peak else "VmRSS:"
        lines = Path(f"/proc/{self.gateway.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6

    def forget_peak(self) -> None:
        """Let the peak of the memory begin anew."""
        Path(f"/proc/{self.gateway.pid}/clear_refs").write_text("5")


@contextmanager
def open_stage(directory: Path, pace: int) -> Iterator[Stage]:
    """Start everything; the worker makes `pace` pictures a second of the route `default`."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    pinned = len(cores) > 1
    with ExitStack() as stack:
        if pinned:
            os.sched_setaffinity(0, cores[1:])
            stack.callback(os.sched_setaffinity, 0, cores)
        server = RedisServer()
        stack.callback(server.close)
        provider = Provider("--plain", "--latency", f"{LATENCY_S:g}-{LATENCY_S:g}")
        stack.callback(provider.end)
        port, images = free_port(), directory / "images"
        key = add_key(directory / "keys.json", "bench", TENANT, frozenset({"submit"}))
        config = CONFIG.format(redis_url=server.url, directory=directory) + ACCOUNTS.format(
            port=port, keys_file=directory / "keys.json", base_url=provider.openai_url, pace=pace
        )
        config += "".join(PREVIEWS.format(door=door) for door in DOORS)
        environ = {"BENCH_API_KEY": "bench"}
        worker = _started(stack, directory / "worker", config, environ, "worker")
        config += FURTHER.format(route=UNSERVED)
        gateway = _started(stack, directory / "gateway", config, environ, "gateway")
        made = Stage(gateway, worker, server.url, images, port, key, pinned)
        _wait_until_it_serves(made)
        if pinned:
            for thread in Path(f"/proc/{gateway.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores[:1])
        yield made


def _started(stack: ExitStack, directory: Path, config: str, environ: dict[str, str], command: str) -> Worker:
    directory.mkdir()
    process = Worker(directory, config, environ, "--log-level", "warning", command=command)
    stack.callback(process.end)
    return process


def _wait_until_it_serves(stage: Stage) -> None:
    deadline = time.monotonic() + STARTS_S
    headers = {"Authorization": f"Bearer {stage.key}"}
    while time.monotonic() < deadline:
        stage.gateway.check()
        try:
            answer = httpx2.get(f"{stage.url}/v1/jobs/none", headers=headers, trust_env=False)
        except httpx2.TransportError:
            time.sleep(0.05)
            continue
        if answer.status_code == 404:
            return
        raise RuntimeError(f"the gateway answers {answer.status_code}: {answer.text}")
    raise RuntimeError(f"the gateway does not serve:\n{stage.gateway.log()[-3000:]}")


async def until_quiet(stage: Stage, share: float = 0.02, at_most_s: float = 3.0) -> None:
    """Wait until the gateway uses less than `share` of a core."""
    for _ in range(round(at_most_s / 0.25)):
        before_s = stage.cpu_s()
        await asyncio.sleep(0.25)
        if stage.cpu_s() - before_s < share * 0.25:
            return
