"""The doctor finds each fault of a real server, and nothing in a healthy one."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as HttpRoute

from daemon.doctor.checks import (
    Check,
    Finding,
    State,
    check_storage,
    credential_checks,
    examine,
)
from daemon.doctor.redis_checks import memory_checks, redis_checks, unreachable
from daemon.settings import Credential, Route
from daemon.storage.object_store import ResultStore, StorageError
from pixmill.broker.connect import command_client
from pixmill.records.keys import Keys
from providers.http.asgi import AsgiServer
from providers.simulator import Simulator, SimulatorSettings
from tests.servers import RedisServer

KEY = "sk-planted-secret-0123456789abcdef"
KEYS = Keys("pixmill")


@pytest.fixture(scope="module")
def durable() -> Iterator[RedisServer]:
    """A server of its own, as an operator should run one; tests may change its configuration."""
    server = RedisServer(persistent=True)
    yield server
    server.close()


@pytest.fixture
async def client(durable: RedisServer) -> AsyncIterator[Redis]:
    made = command_client(durable.url)
    await made.flushall()
    for setting, value in (("maxmemory-policy", "noeviction"), ("maxmemory", "0"), ("appendonly", "yes")):
        await made.config_set(setting, value)
    yield made
    await made.aclose()


async def found(client: Redis, check: str, **more: Any) -> Finding:
    return await redis_checks(client, KEYS, **more)[check]()


async def memory(client: Redis, most_waiting: int = 0) -> Finding:
    return await memory_checks(client, most_waiting)["memory"]()


async def test_a_healthy_server_gives_no_trouble(client: Redis) -> None:
    checks = {**redis_checks(client, KEYS), **memory_checks(client, 100)}
    findings = await examine(checks)
    assert [*checks] == ["redis", "aof", "eviction", "scripts", "writes", "acl", "clock", "memory"]
    assert [finding.check for finding in findings] == [*checks]
    assert {finding.state for finding in findings} == {State.OK}


@pytest.mark.parametrize(
    ("version", "state"), [("6.0.16", State.FAIL), ("6.2.0", State.OK), ("10.0", State.OK), ("", State.WARN)]
)
async def test_an_old_server_is_found(version: str, state: State) -> None:
    class Server:
        async def info(self, _section: str) -> dict[str, str]:
            return {"redis_version": version}

    assert (await found(cast("Redis", Server()), "redis")).state is state


async def test_a_server_that_forgets_is_found(client: Redis) -> None:
    await client.config_set("appendonly", "no")
    finding = await found(client, "aof")
    assert finding.state is State.FAIL
    assert "appendonly yes" in finding.says


async def test_a_server_that_deletes_jobs_is_found(client: Redis) -> None:
    await client.config_set("maxmemory-policy", "allkeys-lru")
    assert (await found(client, "eviction")).state is State.WARN  # nothing is evicted without a limit
    await client.config_set("maxmemory", "1gb")
    finding = await found(client, "eviction")
    assert finding.state is State.FAIL
    assert "noeviction" in finding.says


async def test_a_user_without_scripts_is_found(client: Redis, durable: RedisServer) -> None:
    await client.acl_setuser(
        "limited",
        enabled=True,
        passwords=["+pw"],
        keys=["*"],
        categories=["+@all"],
        commands=["-eval", "-info"],
    )
    limited = command_client(durable.url.replace("redis://", "redis://limited:pw@"))
    try:
        states = {finding.check: finding for finding in await examine(redis_checks(limited, KEYS))}
    finally:
        await limited.aclose()
        await client.acl_deluser("limited")
    assert states["scripts"].state is State.FAIL
    assert states["aof"].state is State.WARN
    assert "ACL" in states["aof"].says


async def test_a_command_that_the_acl_lacks_is_named(client: Redis, durable: RedisServer) -> None:
    without = ["hset", "zadd", "xgroup|create", "subscribe", "watch", "info"]
    await client.acl_setuser(
        "limited",
        enabled=True,
        passwords=["+pw"],
        keys=["*"],
        channels=["*"],
        categories=["+@all"],
        commands=[f"-{name}" for name in without],
    )
    limited = command_client(durable.url.replace("redis://", "redis://limited:pw@"))
    keys_before = await client.keys("*")
    try:
        finding = await found(limited, "acl")
    finally:
        await limited.aclose()
        await client.acl_deluser("limited")
    assert finding.state is State.FAIL
    assert re.findall(r"[a-z|]+(?=[,.])", finding.says.partition("needs: ")[2])[:6] == [
        "hset", "xgroup|create", "zadd", "info", "subscribe", "watch"
    ]  # fmt: skip
    assert await client.keys("*") == keys_before, "nothing stays behind"


async def test_a_user_without_the_channel_of_the_bell_is_found(client: Redis, durable: RedisServer) -> None:
    await client.acl_setuser(
        "limited", enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"], reset_channels=True
    )
    limited = command_client(durable.url.replace("redis://", "redis://limited:pw@"))
    try:
        finding = await found(limited, "acl")
    finally:
        await limited.aclose()
        await client.acl_deluser("limited")
    assert "publish, subscribe" in finding.says


async def test_a_server_without_memory_is_found(client: Redis) -> None:
    await client.config_set("maxmemory", "1")
    finding = await found(client, "writes")
    assert finding.state is State.FAIL
    assert "no memory left" in finding.says


@pytest.mark.parametrize(
    ("spare", "most_waiting", "state", "says"),
    [
        (2 << 30, 100_000, State.OK, "more items of 1 KB can wait"),
        (2 << 30, 1_000_000, State.WARN, "one tenant may queue 1,000,000"),
        (2 << 30, 0, State.OK, "of maxmemory"),
        (1 << 16, 0, State.WARN, "CONFIG SET maxmemory 1gb"),
    ],
)
async def test_memory_that_the_backlog_may_fill_is_found(
    client: Redis, spare: int, most_waiting: int, state: State, says: str
) -> None:
    info: Any = await client.info("memory")
    await client.config_set("maxmemory", info["used_memory"] + spare)
    finding = await memory(client, most_waiting)
    assert finding.state is state
    assert says in finding.says


async def test_without_a_limit_the_memory_of_the_machine_counts(client: Redis) -> None:
    assert "of the memory of its machine" in (await memory(client)).says


@pytest.mark.parametrize(("off_s", "state"), [(0.0, State.OK), (-5.0, State.WARN), (600.0, State.FAIL)])
async def test_clocks_that_differ_are_found(client: Redis, off_s: float, state: State) -> None:
    seconds, micros = await client.time()
    frozen = int(seconds) + int(micros) / 1e6 + off_s
    finding = await found(client, "clock", now_s=lambda: frozen)
    assert finding.state is state
    assert ("behind" if off_s > 0 else "ahead of") in finding.says


async def test_a_slow_answer_is_no_difference_of_clocks(client: Redis) -> None:
    """The server reads its clock between request and reply, so the difference is only that exact."""
    seconds, _ = await client.time()
    clock = iter((int(seconds) - 30.0, int(seconds) + 90.0))
    assert (await found(client, "clock", now_s=lambda: next(clock))).state is State.OK


# --- storage, credentials, trouble


async def test_a_store_is_written_to_and_left_as_it_was() -> None:
    store = ResultStore.open("memory://")
    assert (await check_storage(lambda: store)).state is State.OK
    assert [entry async for page in store._store.list() for entry in page] == []


@pytest.mark.parametrize(("ahead_s", "side"), [(30, "behind"), (-30, "ahead of")])
async def test_a_store_whose_clock_differs_from_that_of_redis_is_found(ahead_s: float, side: str) -> None:
    async def of_redis() -> float:
        return time.time() + ahead_s

    finding = await check_storage(lambda: ResultStore.open("memory://"), of_redis)
    assert finding.state is State.WARN
    assert f"30 s {side} that of Redis" in finding.says


async def test_without_redis_the_clock_of_the_store_is_compared_with_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away() -> float:
        raise RedisConnectionError

    ours = time.time
    monkeypatch.setattr("daemon.doctor.checks.time.time", lambda: ours() + 30)
    finding = await check_storage(lambda: ResultStore.open("memory://"), away)
    assert "30 s behind that of this machine" in finding.says


async def test_a_store_that_cannot_be_opened_or_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> ResultStore:
        raise StorageError("storage.url file:///nowhere cannot be used.")

    async def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    finding = await check_storage(broken)
    assert (finding.state, finding.says) == (State.FAIL, "storage.url file:///nowhere cannot be used.")
    store = ResultStore.open("memory://")
    monkeypatch.setattr("obstore.put_async", full)
    finding = await check_storage(lambda: store)
    assert finding.state is State.FAIL
    assert finding.says.endswith("no space left on device. Is the path, or the cloud's credential, right?")


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    settings = SimulatorSettings(latency_s=(0.0, 0.0), plain=True, api_keys=(KEY,))
    async with Simulator(settings) as running:
        yield running


async def credential(
    provider: str, base_url: str | None, environ: dict[str, str], model: str = "sim-1"
) -> Finding:
    configured = Credential(provider=provider, base_url=base_url, api_key_env="KEY")
    routes = {"default": Route(credential="main", model=model)}
    (finding,) = await examine(credential_checks({"main": configured}, routes, environ))
    assert finding.check == "credential main"
    return finding


@pytest.mark.parametrize("provider", ["openai", "openrouter"])
async def test_a_key_is_tried_where_that_is_free(simulator: Simulator, provider: str) -> None:
    base_url = {"openai": simulator.base_url, "openrouter": simulator.openrouter_url}[provider]
    assert (await credential(provider, base_url, {"KEY": KEY})).state is State.OK
    wrong = await credential(provider, base_url, {"KEY": "sk-planted-but-revoked-0123456789"})
    assert wrong.state is State.FAIL
    assert "planted" not in wrong.says
    assert not simulator.ledger.calls


@pytest.mark.parametrize(
    ("provider", "environ", "state", "says"),
    [
        ("openai", {}, State.FAIL, "KEY"),
        ("openai", {"KEY": f'"{KEY}"'}, State.FAIL, "stands in quotes"),
        ("openai", {"KEY": f"Bearer {KEY}"}, State.FAIL, "holds a blank"),
        ("opanai", {"KEY": KEY}, State.FAIL, "openai"),
        ("zimage", {"KEY": KEY}, State.OK, "no request that is free"),
    ],
)
async def test_a_credential_that_cannot_be_tried_has_a_reason(
    provider: str, environ: dict[str, str], state: State, says: str
) -> None:
    finding = await credential(provider, None, environ)
    assert finding.state is state
    assert says in finding.says


@pytest.mark.parametrize("provider", ["openai", "openrouter"])
async def test_a_model_that_the_provider_does_not_list_is_named(simulator: Simulator, provider: str) -> None:
    base_url = {"openai": simulator.base_url, "openrouter": simulator.openrouter_url}[provider]
    assert (await credential(provider, base_url, {"KEY": KEY}, "sim-1:nitro")).state is State.OK
    finding = await credential(provider, base_url, {"KEY": KEY}, "sim-l")
    assert finding.state is State.WARN
    assert "It lists no sim-l. Did you mean 'sim-1'?" in finding.says


async def test_a_gateway_that_lists_no_models_leaves_it_open(simulator: Simulator) -> None:
    finding = await credential("openai", f"{simulator.url}/elsewhere", {"KEY": KEY})
    assert finding.state is State.WARN


MISSING = "You have insufficient permissions for this operation. Missing scopes: api.model.read."


@pytest.mark.parametrize(
    ("status", "message", "state"),
    [
        (403, MISSING, State.WARN),
        (401, MISSING, State.WARN),
        (403, "Forbidden", State.WARN),
        (401, "Incorrect API key provided.", State.FAIL),
        (402, "Insufficient credits.", State.FAIL),
    ],
)
async def test_a_restricted_key_may_still_draw_and_a_refused_one_may_not(
    status: int, message: str, state: State
) -> None:
    """OpenAI answers 401 or 403 where a key lacks the scope to list models; only a call shows whether it may draw."""

    async def refused(_: HttpRequest) -> Response:
        return JSONResponse({"error": {"message": message, "code": None}}, status)

    server = AsgiServer(Starlette(routes=[HttpRoute("/v1/models", refused)]))
    await server.start()
    try:
        finding = await credential("openai", f"{server.url}/v1", {"KEY": KEY})
    finally:
        await server.stop()
    assert finding.state is state
    assert message in finding.says


async def test_an_unreachable_provider_is_a_finding() -> None:
    finding = await credential("openrouter", "http://127.0.0.1:9/api/v1", {"KEY": KEY})
    assert finding.state is State.FAIL
    assert KEY not in finding.says


async def test_a_check_that_breaks_or_hangs_is_a_finding_and_the_others_go_on() -> None:
    async def hangs() -> Finding:
        await asyncio.Event().wait()
        raise AssertionError

    async def breaks() -> Finding:
        raise KeyError("a bug")

    async def away() -> Finding:
        raise RedisConnectionError("gone")

    async def well() -> Finding:
        return Finding("well", State.OK, "Fine.")

    checks: dict[str, Check] = {"hangs": hangs, "breaks": breaks, "away": away, "well": well}
    findings = await examine(checks, timeout_s=0.05)
    assert [finding.state for finding in findings] == [State.FAIL] * 3 + [State.OK]


async def test_an_unreachable_server_differs_from_a_refused_password(
    client: Redis, durable: RedisServer
) -> None:
    assert await unreachable(client, "here") is None
    for url, says in (
        ("redis://127.0.0.1:9", "does not answer"),
        (durable.url.replace("redis://", "redis://nobody:planted@"), "password"),
    ):
        other = command_client(url)
        finding = await unreachable(other, "there")
        await other.aclose()
        assert finding is not None
        assert says in finding.says
        assert "planted" not in finding.says
