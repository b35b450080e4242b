"""A process that fills a queue or drains it with no-ops, and its owner's side.

``python -m benchmarks.drain.worker fill REDIS_URL ITEMS TENANTS BATCHES NAME`` ends when all is accepted.
``python -m benchmarks.drain.worker drain REDIS_URL CONCURRENCY`` says "ready", starts at the first line of its input
and stops at the second one; then it prints the CPU seconds between the two and its peak memory.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import astuple
from typing import Any

import redis
import uvloop

from benchmarks.drain.noops import Noops, Work
from benchmarks.peers.harness import peak_rss_mib
from benchmarks.processes import ROOT, run_child, server_cpu_s
from daemon.telemetry.logs import configure_logs

POLL_S = 0.02
FILL_TIMEOUT_S, DRAIN_TIMEOUT_S = 1800.0, 600.0
MODULE = [sys.executable, "-m", "benchmarks.drain.worker"]


class NoopWorker:
    """One draining process, which is ready and waits for `begin`."""

    def __init__(self, url: str, concurrency: int) -> None:
        self._process = subprocess.Popen(
            [*MODULE, "drain", url, str(concurrency)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def say(self) -> None:
        """Let it start, and the next time stop."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def ended(self) -> dict[str, float]:
        """Once it was told to stop: the CPU seconds from its start to its stop, and the peak RSS (MiB)."""
        found: dict[str, float] = json.loads(self._line())
        self._process.wait()
        return found

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"a draining process ended with {self._process.wait()}; its errors are above.")
        return line


def fill(url: str, work: Work) -> None:
    """Queue the work, by a process of its own."""
    run_child([*MODULE, "fill", url, *map(str, astuple(work))], {}, FILL_TIMEOUT_S)


def drain(url: str, replicas: int, concurrency: int, items: int) -> dict[str, float]:
    """Let replicas start together and drain `items`: what it took, and how many items had left the queue at its end."""
    workers: list[NoopWorker] = []
    client: Any
    with redis.Redis.from_url(url) as client:
        try:
            workers += (NoopWorker(url, concurrency) for _ in range(replicas))
            before, server_s, began = depth(client), server_cpu_s(client), time.perf_counter()
            for worker in workers:
                worker.say()
            while before - (left := depth(client)) < min(items, before):
                if time.perf_counter() - began > DRAIN_TIMEOUT_S:
                    sys.exit(f"{before - left} of {items} items were drained in {DRAIN_TIMEOUT_S:.0f} s.")
                time.sleep(POLL_S)
            drain_s, server_s = time.perf_counter() - began, server_cpu_s(client) - server_s
            for worker in workers:
                worker.say()
            ended = [worker.ended() for worker in workers]
        except BaseException:
            for worker in workers:
                worker.kill()
            raise
    return {
        "items": before - left,
        "drain_s": drain_s,
        "server_cpu_s": server_s,
        "worker_cpu_s": sum(one["cpu_s"] for one in ended),
        "peak_rss_mib": max(one["peak_rss_mib"] for one in ended),
    }


def depth(client: Any) -> int:
    """The number of items that wait or run; `client` is a blocking one."""
    return sum(map(int, client.hgetall("pixmill:depth").values()))


async def _fill(url: str, work: Work) -> None:
    await Noops(url, 1).fill(work)


async def _drain(url: str, concurrency: int) -> None:
    noops = Noops(url, concurrency)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    before_s = time.process_time()
    await noops.replica.start()
    await asyncio.to_thread(sys.stdin.readline)
    line = {"cpu_s": time.process_time() - before_s, "peak_rss_mib": peak_rss_mib()}
    await noops.stop()
    print(json.dumps(line), flush=True)


def main() -> None:
    configure_logs(level="warning")
    command, url, *sizes = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if command == "fill":
            items, tenants, batches, name = sizes
            runner.run(_fill(url, Work(int(items), int(tenants), int(batches), name)))
        else:
            runner.run(_drain(url, int(sizes[0])))


if __name__ == "__main__":
    main()
