"""Nothing of Redis stands between an answer and the store: a task is polled and kept while Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from daemon.accounts.routes import build_routes
from daemon.queue.messages import LeaseLost
from daemon.queue.outcomes import Succeeded
from daemon.replica import Replica
from daemon.settings import Settings
from daemon.storage.object_store import ResultStore
from providers.base import Pending, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.simulator import Simulator, SimulatorSettings
from tests.daemon.harness import NO_WEBHOOKS, Installation, eventually
from tests.daemon.worker.test_executor import Bench, generated
from tests.servers import RedisServer

REFUSED = ProviderError(ErrorKind.RATE_LIMITED, "Slow down.", http_status=429)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("broker.loops", "worker.run", "worker.polls.durations", "worker.polls.pacer"):
        monkeypatch.setattr(f"daemon.{module}.PATIENCE_S", 0.02)


class Silence:
    """Steps that wait for a Redis which does not answer."""

    def __init__(self) -> None:
        self.works = asyncio.Event()
        self.met = 0

    def keep(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        async def waits(*args: Any, **options: Any) -> Any:
            self.met += 1
            await self.works.wait()
            return await real(*args, **options)

        monkeypatch.setattr(owner, name, waits)


@pytest.fixture
def bench(redis: Redis) -> Bench:
    bench = Bench(redis, {"images": "100/s"})
    bench.answers = [Submitted("task-1", headers={"x-ratelimit-remaining": "7"})]
    bench.provider.poll_answers = [REFUSED, Pending("RUNNING"), generated()]
    return bench


@pytest.mark.parametrize("step", ["note_receipt", "call_accepted", "call_answered", "lrange", "penalise"])
async def test_a_task_is_polled_and_kept_while_a_report_waits_for_redis(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    silence = Silence()
    owners: dict[str, Any] = {
        "note_receipt": bench.installation.queue,
        "lrange": bench.installation.redis,
        "penalise": bench.limiter,
    }
    silence.keep(monkeypatch, owners.get(step, bench), step)
    run = await bench.claimed()
    ends = asyncio.create_task(bench.executor.run(run))
    await eventually(lambda: _is_stored(bench, run.place[1]))
    assert silence.met
    silence.works.set()
    assert isinstance(await ends, Succeeded)
    assert "task-1" in (await bench.installation.record("default//a"))["receipt"]


async def _is_stored(bench: Bench, day: Any) -> bool:
    return await bench.store.get(f"default/{day:%Y%m%d}/single/a.png") is not None


async def test_a_worker_that_dies_before_its_receipt_leaves_its_picture(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = Silence()
    silence.keep(monkeypatch, bench.installation.queue, "note_receipt")
    run = await bench.claimed()
    dies = asyncio.create_task(bench.executor.run(run))
    await eventually(lambda: _is_stored(bench, run.place[1]))
    assert isinstance(await bench.executor.run(await bench.taken_over()), Succeeded)
    assert len(bench.provider.requests) == 1
    silence.works.set()
    with pytest.raises(LeaseLost):
        await dies


async def test_a_receipt_that_comes_late_stops_the_polls_of_its_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = Silence()
    silence.keep(monkeypatch, bench.installation.queue, "note_receipt")
    bench.provider.poll_answers = []
    polls = 0

    async def runs(*_: object, **__: object) -> Pending:
        nonlocal polls
        polls += 1
        await asyncio.sleep(0)
        return Pending("RUNNING")

    monkeypatch.setattr(bench.provider, "poll", runs)
    bench.route.timeout_s = 1e9
    slept = asyncio.create_task(bench.executor.run(await bench.claimed()))

    async def polled() -> bool:
        return polls > 0

    await eventually(polled)
    await bench.taken_over()
    silence.works.set()
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(slept, 10)


async def test_a_run_that_is_stopped_notes_its_receipt_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = Silence()
    silence.keep(monkeypatch, bench.installation.queue, "note_receipt")
    bench.sleep = lambda _seconds: asyncio.Event().wait()  # type: ignore[assignment,return-value]  # never ends
    stopped = asyncio.create_task(bench.executor.run(await bench.claimed()))

    async def noting() -> bool:
        return bool(silence.met)

    await eventually(noting)
    stopped.cancel()
    await asyncio.wait([stopped], timeout=0.05)
    silence.works.set()
    with pytest.raises(asyncio.CancelledError):
        await stopped
    assert "task-1" in (await bench.installation.record("default//a"))["receipt"]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
async def admin(server: RedisServer) -> AsyncIterator[Any]:
    client: Any = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
    await client.flushall()
    yield client
    for _, before in REFUSALS.values():
        await client.config_set(*before.split())
    await client.aclose()


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(latency_s=(3, 3), plain=True)) as running:
        yield running


@pytest.fixture
async def replica(server: RedisServer, admin: Any, simulator: Simulator) -> AsyncIterator[Replica]:
    account = {"provider": "zimage", "base_url": simulator.modelscope_url, "api_key_env": "KEY"}
    settings = Settings.model_validate(
        {
            "metrics": {"listen": "127.0.0.1:0"},
            "credentials": {"main": account},
            "quotas": {"q": {"requests": "100/s", "in_flight": 4, "polls": "400/s"}},
            "routes": {
                "default": {"credential": "main", "model": "Tongyi-MAI/Z-Image-Turbo", "quotas": ["q"]}
            },
        }
    )
    store = ResultStore.open("memory://")
    replica = Replica(settings, server.url, build_routes(settings, {"KEY": "ms-planted"}), store, NO_WEBHOOKS)
    await replica.start()
    yield replica
    await replica.stop()


REFUSALS = {
    "no memory": ("maxmemory 1", "maxmemory 0"),
    "no replicas": ("min-replicas-to-write 1", "min-replicas-to-write 0"),
}


@pytest.mark.parametrize("how", [*REFUSALS, "silence"])
async def test_a_task_is_kept_while_redis_takes_no_writes(
    admin: Any, simulator: Simulator, replica: Replica, how: str
) -> None:
    installation = Installation(admin)
    await installation.add({"id": "a", "prompt": "x", "size": "512x512"})

    async def called() -> bool:
        return bool(simulator.ledger.calls)

    await eventually(called, 30)
    if how == "silence":
        await admin.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    else:
        await admin.config_set(*REFUSALS[how][0].split())

    async def stored() -> bool:
        return any("/single/a." in key for key in await _keys(replica))

    await eventually(stored, 30)
    if how != "no memory":  # there a settle goes through: it begins with a command that needs no memory
        assert (await installation.record("default//a"))["state"] == "running"
    if how == "silence":
        await admin.execute_command("CLIENT", "UNPAUSE")
    else:
        await admin.config_set(*REFUSALS[how][1].split())

    async def succeeded() -> bool:
        return (await installation.record("default//a"))["state"] == "succeeded"

    await eventually(succeeded, 30)
    assert len(simulator.ledger.calls) == 1


async def _keys(replica: Replica) -> list[str]:
    rows: Any = replica.store._store.list()
    return [row["path"] for page in rows for row in page]


async def test_a_replica_sends_its_settles_again_in_another_life_of_redis(
    admin: Any, replica: Replica
) -> None:
    lives: list[str] = []

    async def note_life(life: str) -> None:
        lives.append(life)

    assert replica.probe.on_life == replica.pool.settles.note_life
    replica.probe.on_life = note_life
    await replica.probe.write()
    assert set(lives) == {(await admin.info("server"))["run_id"]}
