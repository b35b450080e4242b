"""Processes for end-to-end tests: `pixmill` commands in a directory, with their output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2

STARTED_S = 60.0  # a busy machine takes long to start an interpreter


class Command:
    """A running `python -m daemon ...`; a thread reads its output, so it never blocks on a full pipe.

    `shell` is run before it, in the same process, such as `ulimit -n 64`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        *,
        module: str = "daemon",
        shell: str = "",
        **environ: str,
    ) -> None:
        self.lines: list[str] = []
        before = ["sh", "-c", f'{shell} && exec "$@"', "sh"] if shell else []
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", module, *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, text: str, timeout_s: float = STARTED_S) -> str:
        """The first line with `text`."""

        def found() -> str | None:
            if self.process.poll() is not None and not any(text in line for line in self.lines):
                raise AssertionError(f"the command ended with {self.process.returncode}:\n{self.output}")
            return next((line for line in self.lines if text in line), None)

        return str(wait_until(found, timeout_s, lambda: f"no {text!r} in:\n{self.output}"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM, and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def wait_until(
    check: Callable[[], Any], timeout_s: float, message: Callable[[], str] = lambda: "not in time"
) -> Any:
    """Call `check` until it returns something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while not (answer := check()):
        if time.monotonic() > deadline:
            raise AssertionError(message())
        time.sleep(0.02)
    return answer


class SimulatorProcess:
    """The simulator as a process of its own; it counts the calls of all replicas."""

    def __init__(self, cwd: Path, *options: str) -> None:
        self.command = Command(["simulator", "--port", "0", *options], cwd)
        line = self.command.wait_for("listens on")
        self.base_url = line.split()[-1]
        self._root = self.base_url.removesuffix("/v1")

    def ledger(self, *, entries: bool = False) -> dict[str, Any]:
        answer = httpx2.get(
            f"{self._root}/simulator/ledger" + ("?entries=1" if entries else ""), trust_env=False
        )
        document: dict[str, Any] = answer.json()
        return document

    def do(self, kind: str, **fault: Any) -> None:
        """Inject a fault into the next calls, see `Fault`."""
        answer = httpx2.post(f"{self._root}/simulator/faults", json={"kind": kind, **fault}, trust_env=False)
        assert answer.status_code == 200, answer.text

    def stop(self) -> None:
        self.command.stop()
