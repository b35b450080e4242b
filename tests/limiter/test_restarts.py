"""The server forgets its scripts, restarts or fails over: callers see connection errors and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count

import pytest
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from limiter import Grant, HeaderReading, Later, Limiter, Quota, Window, parse_quota
from tests.limiter.conftest import Rig
from tests.servers import RedisServer

PREFIX = "restarts"
WINDOW = Quota("api", (Window(5, 500_000),))
PERIOD_S, SPAN_S = 0.5, 0.505
ALL = parse_quota("all", {"requests": ["9/s", {"rate": "9/s", "burst": 9}], "in_flight": 9, "adaptive": True})


class _Sender:
    """Requests without a pause, on a connection that can be led to another address; `sent` are slots."""

    def __init__(self, server: RedisServer, name: str) -> None:
        self.name = name
        self.client = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
        self.limiter = Limiter(self.client, PREFIX)
        self.sent: list[float] = []
        self.errors = 0
        self._numbers = count()
        self._requesting = asyncio.create_task(self._request())

    async def _request(self) -> None:
        while True:
            try:
                answer = await self.limiter.acquire(
                    [WINDOW], holder="h", request_id=f"{self.name}{next(self._numbers)}", max_wait_s=0.05
                )
            except RedisConnectionError:
                self.errors += 1
                await asyncio.sleep(0.01)
                continue
            wait_s = (answer.wait_us if isinstance(answer, Grant) else min(answer.retry_us, 20_000)) / 1e6
            await asyncio.sleep(wait_s)
            if isinstance(answer, Grant):
                self.sent.append(answer.permit.slot_us / 1e6)

    async def lead_to(self, server: RedisServer) -> None:
        before, self.client.connection_pool = (
            self.client.connection_pool,
            ConnectionPool.from_url(server.url, retry=Retry(NoBackoff(), 0)),
        )
        await before.disconnect()

    async def more(self, calls: int) -> None:
        wanted = len(self.sent) + calls
        await _until(lambda: _is(len(self.sent) >= wanted or self._requesting.done()))
        assert not self._requesting.done(), self._requesting.exception()

    async def close(self) -> None:
        self._requesting.cancel()
        await asyncio.wait([self._requesting])
        assert self._requesting.cancelled(), "no other exception than the connection's"
        await self.client.aclose()

    def fullest(self, from_s: float = 0.0) -> int:
        """The most calls in any period that begins after `from_s`."""
        return _fullest([slot for slot in self.sent if slot >= from_s])


def _fullest(slots: list[float]) -> int:
    return max((sum(first <= slot < first + PERIOD_S for slot in slots) for first in slots), default=0)


async def _is(condition: bool) -> bool:
    return condition


async def _until(condition: Callable[[], Awaitable[bool]], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.fixture
def servers() -> Iterator[Callable[..., RedisServer]]:
    started: list[RedisServer] = []

    def start(*, persistent: bool = False) -> RedisServer:
        started.append(RedisServer(persistent=persistent))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
async def senders() -> AsyncIterator[Callable[[RedisServer], _Sender]]:
    made: list[_Sender] = []

    def make(server: RedisServer) -> _Sender:
        made.append(_Sender(server, f"sender-{len(made)}-"))
        return made[-1]

    yield make
    for sender in made:
        await sender.close()


async def test_every_call_outlives_the_loss_of_its_script(rig: Rig) -> None:
    limiter, flush = rig.limiter, rig.client.script_flush
    permit = await rig.permit(ALL)
    rig.time.advance(10_000)
    await flush()
    await limiter.retime(permit, [ALL])
    await flush()
    await limiter.submitted(permit, longest_s=5)
    await flush()
    assert await limiter.renew([permit]) == []
    await flush()
    assert await limiter.observe(ALL, permit, [HeaderReading(remaining=3)]) == 1
    await flush()
    assert (await limiter.penalise(ALL, reason="429", retry_after_s=1, permit=permit)).cut
    await flush()
    await limiter.pause("all", "stop")
    await flush()
    assert await limiter.report_spread(7) == 7
    await flush()
    assert [state.paused_reason for state in await limiter.snapshot([ALL])] == ["stop"]
    await flush()
    assert await limiter.release(permit)
    await flush()
    await limiter.give_back(permit)


async def test_a_restart_with_persistence_forgets_nothing(
    servers: Callable[..., RedisServer], senders: Callable[[RedisServer], _Sender]
) -> None:
    server = servers(persistent=True)
    sender = senders(server)
    await sender.more(7)
    server.kill()
    await _until(lambda: _is(sender.errors > 0))
    server.start()
    await sender.more(11)
    assert sender.fullest() == 5


async def test_a_restart_without_persistence_grants_nothing_twice(
    servers: Callable[..., RedisServer], senders: Callable[[RedisServer], _Sender]
) -> None:
    server = servers()
    sender, other = senders(server), senders(server)
    await sender.more(7)
    await other.more(2)
    server.kill()
    server.start()
    back_at = time.time()
    await sender.more(6)
    await other.more(2)
    calls = sorted(sender.sent + other.sent)
    assert _fullest(calls) == 5
    # The use before the restart is unknown, so the window counts as used in full.
    assert min(slot for slot in calls if slot > back_at) >= back_at + SPAN_S


async def test_a_cold_start_waits_for_nothing_and_has_the_units_of_a_period(
    servers: Callable[..., RedisServer], senders: Callable[[RedisServer], _Sender]
) -> None:
    sender = senders(servers())
    await sender.more(5)
    assert sender.sent[4] - sender.sent[0] < PERIOD_S
    await sender.more(1)
    assert sender.fullest() == 5


async def test_a_failover_to_a_lagging_replica_costs_what_was_granted_within_the_lag(
    servers: Callable[..., RedisServer], senders: Callable[[RedisServer], _Sender]
) -> None:
    master, replica = servers(), servers()
    leader, follower = Redis.from_url(master.url), Redis.from_url(replica.url)
    await leader.config_set("repl-diskless-sync-delay", 0)
    await follower.replicaof("127.0.0.1", master.port)

    async def follows() -> bool:
        return (await follower.info("replication")).get("master_link_status") == "up"

    await _until(follows)
    sender = senders(master)
    await sender.more(8)
    # From here on nothing reaches it: it is as far behind as the rest of the master's life is long.
    await follower.replicaof("NO", "ONE")
    lag_from = time.time()
    await sender.more(5)
    master.kill()
    await _until(lambda: _is(sender.errors > 0))
    lag_to = time.time()
    await sender.lead_to(replica)
    await sender.more(11)
    lost = sum(lag_from <= slot < lag_to for slot in sender.sent)
    assert lost >= 5
    assert 5 <= sender.fullest() <= 5 + lost
    # One period later the cost of the lag is over, and the replica has kept its knowledge.
    assert sender.fullest(lag_to + SPAN_S) <= 5
    known = [slot for slot in sender.sent if slot < lag_from or slot >= lag_to]
    assert _fullest(known) == 5
    await leader.aclose()
    await follower.aclose()


async def test_calls_in_flight_before_a_restart_still_count_after_it(
    servers: Callable[..., RedisServer],
) -> None:
    server = servers(persistent=True)
    client = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
    limiter = Limiter(client, PREFIX)
    one = parse_quota("one", {"in_flight": 1})
    answer = await limiter.acquire([one], holder="h", request_id="r", max_wait_s=0)
    assert isinstance(answer, Grant)
    await limiter.submitted(answer.permit, longest_s=60)
    server.kill()
    with pytest.raises(RedisConnectionError):
        await limiter.renew([answer.permit])
    server.start()
    assert await limiter.renew([answer.permit]) == []
    assert isinstance(await limiter.acquire([one], holder="h", request_id="s", max_wait_s=0), Later)
    assert await limiter.release(answer.permit)
    assert isinstance(await limiter.acquire([one], holder="h", request_id="s", max_wait_s=0), Grant)
    await client.aclose()
