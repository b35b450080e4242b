"""One process: how it handles signals, and the redis-cli line that it prints."""

from __future__ import annotations

import asyncio
import gc
import os
import shlex
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis

from daemon import signals
from daemon.broker.redis_cli import redis_cli
from daemon.cli.commands.serve import banner
from daemon.gateway.running import beside
from daemon.replica import SPARE_PORTS, Replica
from daemon.service import GC_THRESHOLD, freeze_what_stays, run_up, run_worker, up, worker
from daemon.settings import Listen, Settings, SettingsError
from daemon.settings.model import MetricsSettings
from daemon.signals import until_signal
from daemon.worker.dispatcher import RESTARTED
from pixmill.client import Client
from tests.daemon.broker.test_embedded import servers_in
from tests.daemon.harness import eventually, worker_settings
from tests.servers import RedisServer, free_port


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("redis://127.0.0.1:6390/0", "redis-cli -p 6390"),
        ("redis://cache.example", "redis-cli -h cache.example -p 6379"),
        ("redis://cache.example/3", "redis-cli -h cache.example -p 6379 -n 3"),
        ("redis://:planted@h:1", 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli -h h -p 1'),
        (
            "rediss://me:planted@h:1/2",
            'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli -h h -p 1 -n 2 --tls --user me',
        ),
        ("redis://planted@h:1", "redis-cli -h h -p 1"),
        ("redis://[::1]:1/0?db=4", "redis-cli -h ::1 -p 1 -n 4"),
        ("unix:///run/my redis.sock", "redis-cli -s '/run/my redis.sock'"),
        ("redis+cluster://a,b:7001", "redis-cli -c -h a -p 6379"),
        (
            "redis+sentinel://me:planted@s1,s2:5/shop/2",
            'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli $(redis-cli -h s1 -p 26379 SENTINEL GET-MASTER-ADDR-BY-NAME shop'
            " | xargs printf -- '-h %s -p %s') -n 2 --user me",
        ),
    ],
)
def test_the_printed_redis_cli_reaches_that_redis_and_shows_no_password(url: str, line: str) -> None:
    assert redis_cli(url) == line
    assert shlex.split(line)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps of the end of a process, in their order."""
    reported: list[str] = []
    monkeypatch.setattr("daemon.signals.os._exit", lambda code: reported.append(f"exit {code}"))
    return reported


async def test_signals_that_follow_at_once_are_the_same_signal(ends: list[str]) -> None:
    """`timeout` signals its child, and then the whole group."""
    waiting = asyncio.create_task(until_signal(lambda: ends.append("left")))
    await asyncio.sleep(0)
    noted = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, noted.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await noted.wait()
    await waiting
    assert ends == []


async def test_a_signal_while_everything_is_started_undoes_what_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come when the server runs and nothing else does."""
    monkeypatch.chdir(tmp_path)
    signal.signal(signal.SIGTERM, lambda *_: None)  # unhandled, it would end the tests themselves
    begun, may_go_on = asyncio.Event(), asyncio.Event()

    async def start(_: Replica) -> None:
        begun.set()
        await may_go_on.wait()

    monkeypatch.setattr(Replica, "start", start)
    running = asyncio.create_task(
        run_up(Settings.model_validate({"metrics": {"listen": "127.0.0.1:0"}}), banner, beside)
    )
    await begun.wait()
    assert servers_in(tmp_path / ".pixmill" / "redis")
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 10) == 0
    assert servers_in(tmp_path / ".pixmill" / "redis") == []


async def test_a_signal_while_a_worker_starts_stops_what_was_started(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)  # unhandled, it would end the tests themselves
    monkeypatch.setenv("PLANTED", "a-key")
    settings = worker_settings(redis_server.url, tmp_path)
    begun, stopped, stop = asyncio.Event(), asyncio.Event(), Replica.stop

    async def start(_: Replica) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def noted_stop(replica: Replica) -> None:
        stopped.set()
        await stop(replica)

    monkeypatch.setattr(Replica, "start", start)
    monkeypatch.setattr(Replica, "stop", noted_stop)
    running = asyncio.create_task(run_worker(settings))
    await begun.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 10) == 0
    assert stopped.is_set()


async def test_a_second_signal_later_on_leaves_at_once_and_in_order(
    ends: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = asyncio.create_task(until_signal(lambda: ends.append("left")))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await waiting
    assert ends == []
    monkeypatch.setattr(signals, "SAME_SIGNAL_S", 0.0)
    os.kill(os.getpid(), signal.SIGTERM)

    async def ended() -> bool:
        return bool(ends)

    await eventually(ended)
    assert ends == ["left", "exit 130"]


@pytest.fixture
def taken() -> Iterator[Listen]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield Listen(f"127.0.0.1:{other.getsockname()[1]}")


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PLANTED", "a-key")
    return worker_settings(redis_server.url, tmp_path)


async def test_the_default_metrics_port_gives_way_to_the_next_free_one(
    settings: Settings, redis_server: RedisServer, taken: Listen
) -> None:
    settings = settings.model_copy(update={"metrics": MetricsSettings.model_construct(set(), listen=taken)})
    async with worker(settings, redis_server.url) as running:
        port = httpx2.URL(running.replica.metrics_url).port
    assert port is not None
    assert taken.port < port <= taken.port + SPARE_PORTS


@pytest.mark.parametrize("start", [lambda settings: run_up(settings, banner, beside), run_worker])
async def test_a_metrics_port_that_was_set_and_is_taken_ends_the_process(
    start: Callable[[Settings], Coroutine[Any, Any, int]], settings: Settings, taken: Listen
) -> None:
    settings = settings.model_copy(update={"metrics": MetricsSettings(listen=taken)})
    with pytest.raises(
        SettingsError, match=rf"`metrics.listen` \(--metrics\): .*{taken}: Address already in use"
    ):
        await start(settings)


async def test_the_banner_holds_nothing_that_a_terminal_obeys(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "Up.\n  pictures  \x1b]52;c;aGk=\x07"
    running = asyncio.create_task(run_up(settings, lambda _, url: words, beside))
    shown = ""

    async def printed() -> bool:
        nonlocal shown
        shown += capsys.readouterr().out
        return "pictures" in shown

    await eventually(printed)
    os.kill(os.getpid(), signal.SIGTERM)
    await running
    assert "Up.\n  pictures  \\x1b]52;c;aGk=\\x07\n" in shown


async def test_an_address_that_is_not_here_is_not_called_taken(settings: Settings) -> None:
    settings = settings.model_copy(update={"metrics": MetricsSettings(listen=Listen("192.0.2.7:9108"))})
    with pytest.raises(SettingsError, match=r"Cannot listen on 192\.0\.2\.7:9108: Cannot assign"):
        await run_worker(settings)


async def test_the_metrics_port_of_another_family_is_used_as_it_is(
    settings: Settings, redis_server: RedisServer
) -> None:
    settings = settings.model_copy(update={"metrics": MetricsSettings(listen=Listen(f"[::1]:{free_port()}"))})
    async with worker(settings, redis_server.url) as running:
        assert running.replica.metrics_url == f"http://{settings.metrics.listen}"


async def test_a_second_up_starts_its_first_job_at_once(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "metrics": {"listen": "127.0.0.1:0"},
            "storage": {"url": f"file://{tmp_path}/pictures"},
            "worker": {"lease": "1h"},
        }
    )
    for ident in ("a", "b"):
        async with (
            up(settings, data_dir=tmp_path / ".pixmill") as running,
            Client(running.redis_url) as client,
        ):
            await client.submit({"id": ident, "prompt": "x"})

            async def has_ended(client: Client = client, ident: str = ident) -> bool:
                view = await client.status(ident)
                return view is not None and view.state == "succeeded"

            await eventually(has_ended)


async def test_a_worker_of_a_fleet_waits_after_a_restart_of_redis(
    redis_server: RedisServer, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "a-key")
    await redis.hset("pixmill:installation", "life", "a former one")
    async with worker(worker_settings(redis_server.url, tmp_path), redis_server.url) as running:
        async with Client(running.redis_url) as client:
            await client.submit({"id": "a", "prompt": "x"})

        async def waits() -> bool:
            return running.replica.dispatchers["default"].bound == RESTARTED

        await eventually(waits)


async def test_a_database_that_redis_has_not_ends_a_worker(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "a-key")
    settings = worker_settings(redis_server.url.replace("/0", "/99"), tmp_path)
    with pytest.raises(SettingsError, match=r"Redis has no database of the number in redis\.url"):
        await asyncio.wait_for(run_worker(settings), 20)


async def test_a_hangup_begins_a_stop_and_never_hurries_one(
    ends: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal that closes may send it several times, also after Ctrl-C."""
    monkeypatch.setattr(signals, "SAME_SIGNAL_S", 0.0)
    waiting = asyncio.create_task(until_signal(lambda: ends.append("left")))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGHUP)
    await waiting
    noted = asyncio.Event()
    os.kill(os.getpid(), signal.SIGHUP)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, noted.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await noted.wait()
    assert ends == []


async def test_a_hangup_that_is_ignored_from_the_start_stays_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`nohup` ignores it for the process that it starts."""
    monkeypatch.setattr("daemon.signals.signal.getsignal", lambda _number: signal.SIG_IGN)
    loop, handled = asyncio.get_running_loop(), []
    monkeypatch.setattr(loop, "add_signal_handler", lambda number, _handler: handled.append(number))
    waiting = asyncio.create_task(until_signal())
    await asyncio.sleep(0)
    waiting.cancel()
    assert signal.SIGHUP not in handled
    assert signal.SIGTERM in handled


def test_the_garbage_collector_passes_over_what_a_start_has_made() -> None:
    freeze_what_stays()
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold()[0] == GC_THRESHOLD
