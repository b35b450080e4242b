"""How long a command takes, how long a service takes until it is ready, and how much memory it then has.

Run it as ``python -m benchmarks.start``. A real Valkey holds a small record: one batch of four pictures, which has
ended. Every round runs each command once, in a new random order, and starts each service once. A service is ready when
its `/readyz` says so; its memory is read after a rest, before it has seen any work.
All of them run in an environment without extras, as an installation is.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pixmill
from benchmarks.figures import Figure, merged, shown
from benchmarks.processes import CONFIG, ROOT, Provider, Worker, environment, server_version
from benchmarks.report import write
from benchmarks.venvs import BENCHMARKS, plain_python
from tests.servers import RedisServer, free_port

COMMANDS: Mapping[str, Sequence[str]] = {
    "--help": ("--help",),
    "status": ("status", "small"),
    "list": ("list",),
    "explain": ("explain", "small"),
    "quotas": ("quotas",),
    "dead list": ("dead", "list"),
    "retry --held": ("retry", "small", "--held"),
    "submit": ("submit", "a red kettle"),
}
SERVICES = ("worker", "gateway", "up")
COMMAND_S, READY_S, RSS_MIB = 0.4, 1.5, 70.0  # the aims; for `status`, and for a worker
GATEWAY_MIB = 100.0
READY_WITHIN_S = 60.0
LOOK_S = 0.005
VARIABLE = "START_KEY"
ACCOUNT = """
[gateway]
listen = "127.0.0.1:0"
[credentials.main]
provider = "openai"
base_url = "{base_url}"
api_key_env = "START_KEY"
[quotas.main]
images = "600/min"
[routes.default]
credential = "main"
model = "gpt-image-1"
quotas = ["main"]
"""
UP = """
[storage]
url = "file://{directory}/images"
[gateway]
listen = "127.0.0.1:0"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    facts = environment() | {"server": server_version(), "rounds": options.rounds}
    with tempfile.TemporaryDirectory(prefix="pixmill-start-") as directory:
        runs = _runs(Path(directory), options)
    summary = merged(runs)
    print("\n".join([*map(shown, summary), "", _on_one_line(facts)]))
    if facts["load_average"][0] > 1:
        print("The machine was busy at the start: read the CPU seconds, not the seconds.")
    write(options.json, facts, summary=summary, runs=runs)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--rest", type=float, default=3.0, help="seconds from ready to the look at the memory"
    )
    parser.add_argument("--python", type=Path, help="of another environment than one without extras")
    parser.add_argument("--json", type=Path, default=BENCHMARKS / "out" / "start.json", help="where to")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.rest < 0:
        parser.error("--rounds begins at 1, --rest at 0.")
    return options


def _runs(directory: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The figures of each round. One worker runs all the time, so that `submit` is accepted at once."""
    python = options.python or plain_python()
    server = RedisServer()
    provider = Provider("--latency", "0-0", "--plain")
    config = CONFIG.format(redis_url=server.url, directory=directory)
    config += ACCOUNT.format(base_url=provider.openai_url)
    (directory / "commands").mkdir()
    try:
        worker = Worker(directory, config, {VARIABLE: "key"}, python=python)
        try:
            asyncio.run(_small_record(server.url))
            _commands(python, directory, config)  # compiles the modules, which an installation has
            commands = [_commands(python, directory, config) for _ in range(options.rounds)]
        finally:
            worker.end()
        _services(python, directory, config, 0)
        services = [_services(python, directory, config, options.rest) for _ in range(options.rounds)]
    finally:
        provider.end()
        server.close()
    return [{"figures": [*before, *after]} for before, after in zip(commands, services, strict=True)]


async def _small_record(url: str) -> None:
    async with pixmill.Client(url) as client:
        results = await client.generate_batch(["a cup", "a jug", "a pan", "a pot"], batch_id="small")
    if [result.state for result in results] != ["succeeded"] * 4:
        sys.exit(f"the batch did not succeed: {results}")


def _commands(python: Path, directory: Path, config: str) -> list[dict[str, Any]]:
    """Each command once: its seconds, and the CPU seconds of its process."""
    path = directory / "commands" / "pixmill.toml"
    path.write_text(config)
    figures = {}
    for name in random.sample(list(COMMANDS), len(COMMANDS)):
        command: list[str | Path] = [python, "-m", "daemon", *COMMANDS[name]]
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=path.parent,
            env={**_environ(), VARIABLE: "key"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        took_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"`pixmill {' '.join(COMMANDS[name])}` ended with {process.returncode}")
        figures[name] = (took_s, usage.ru_utime + usage.ru_stime)
    rows = []
    for name in COMMANDS:
        took_s, cpu_s = figures[name]
        rows.append(Figure(f"s, `pixmill {name}`", took_s, at_most=COMMAND_S, digits=3))
        rows.append(Figure(f"CPU s, `pixmill {name}`", cpu_s, digits=3))
    return [asdict(row) for row in rows]


def _services(python: Path, directory: Path, config: str, rest_s: float) -> list[dict[str, Any]]:
    figures: dict[str, list[Figure]] = {}
    for name in random.sample(SERVICES, len(SERVICES)):
        place = directory / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        port = free_port()
        text = UP.format(directory=place) if name == "up" else config
        began = time.perf_counter()
        options = ("--metrics", f"127.0.0.1:{port}")
        service = Worker(place, text, {VARIABLE: "key"}, *options, command=name, python=python)
        try:
            _wait_until_ready(service, port)
            took_s, cpu_s = time.perf_counter() - began, service.cpu_s()
            time.sleep(rest_s)
            rss, private = _memory_mib(service.pid)
        finally:
            service.end()
        figures[name] = [
            Figure(f"s until ready, {name}", took_s, at_most=READY_S if name == "worker" else None, digits=2),
            Figure(f"CPU s until ready, {name}", cpu_s, digits=2),
            Figure(f"MiB at rest, {name}", rss, at_most=_most_mib(name), digits=1),
            Figure(f"MiB at rest without files, {name}", private, digits=1),
        ]
    return [asdict(row) for name in SERVICES for row in figures[name]]


def _most_mib(name: str) -> float | None:
    return {"worker": RSS_MIB, "gateway": GATEWAY_MIB}.get(name)


def _wait_until_ready(service: Worker, port: int) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        service.check()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass  # not listening yet, or 503
        time.sleep(LOOK_S)
    sys.exit(f"the service is not ready after {READY_WITHIN_S:.0f} s:\n{service.log()[-3000:]}")


def _memory_mib(pid: int) -> tuple[float | None, float | None]:
    """Resident memory, and the part of it that is no mapped file; None where the system does not report it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None, None
    kib = {
        name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if value.strip()
    }
    return int(kib["VmRSS"]) / 1024, int(kib["RssAnon"]) / 1024


def _environ() -> dict[str, str]:
    """The environment, in which compiled modules are kept as in an installation."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(ROOT)}


def _on_one_line(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())


if __name__ == "__main__":
    sys.exit(main())
