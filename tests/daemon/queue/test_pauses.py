"""A pause stops only new calls: running items go on, waiting items keep their place, and items may expire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.accounts.routes import Route
from daemon.queue import pauses
from daemon.queue.outcomes import Outcome, Succeeded, Throttled
from daemon.queue.pauses import Pause, read_pauses
from daemon.telemetry.metrics import Metrics
from daemon.worker.dispatcher import Dispatcher
from daemon.worker.pause_book import PauseBook
from daemon.worker.pool import Pool
from daemon.worker.run import Run
from limiter import Limiter
from limiter.quota.quota import parse_quota
from pixmill.contract import Event
from tests.daemon.harness import Bench, Installation, ScriptedProvider, eventually

DONE = Succeeded({"images": []})
BUSY = {"kind": "rate_limited", "message": "Wait.", "charged": "no"}


class Fleet:
    """Two replicas' bells, books and dispatchers on two routes; a run lasts until `may_end`."""

    def __init__(self, redis: Redis, quota: dict[str, Any] | None = None) -> None:
        self.redis: Any = redis
        self.installation = Installation(redis, routes=("default", "slides"))
        self.keys = self.installation.keys
        self.may_end = asyncio.Event()
        self.started: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.books: list[PauseBook] = []
        self.dispatchers: list[Dispatcher] = []
        self.running: list[Pool] = []
        quotas = () if quota is None else (parse_quota("q", quota),)
        for worker in ("w1", "w2"):
            self._add_replica(
                worker, [Route(name, ScriptedProvider(), "m", quotas) for name in ("default", "slides")]
            )

    def _add_replica(self, worker: str, routes: list[Route]) -> None:
        queue, metrics = self.installation.other(worker), Metrics()
        replica = Bench(queue, metrics, self._execute, slots=64)
        limiter, running, bell = replica.limiter, replica.pool, replica.bell
        book = PauseBook(self.redis, self.keys, rung=bell.pause_rung, on_change=bell.ring_all)
        self.running.append(running)
        self.books.append(book)
        dispatchers = [
            Dispatcher(
                route, queue, limiter, running, bell, metrics, replica.accounts, replica.gate, book.over
            )
            for route in routes
        ]
        self.dispatchers += dispatchers
        self.tasks += [asyncio.create_task(bell.run()), asyncio.create_task(book.run())]
        self.tasks += [asyncio.create_task(self._dispatch(book, one)) for one in dispatchers]

    async def _dispatch(self, book: PauseBook, dispatcher: Dispatcher) -> None:
        await book.known.wait()
        await dispatcher.run()

    async def _execute(self, run: Run) -> Outcome:
        self.started.append(run.item.uid)
        await self.may_end.wait()
        return DONE

    async def pause(self, *target: Any, **how: Any) -> None:
        assert await pauses.pause(self.redis, self.keys, *target, **how) == "ok"

    async def resume(self, *target: Any) -> None:
        assert await pauses.resume(self.redis, self.keys, *target) == "resumed"

    async def all_know(self, *names: str) -> None:
        async def known() -> bool:
            return all({*book._pauses} == {*names} for book in self.books)

        await eventually(known, 2.0)

    async def has_started(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.started) >= count

        await eventually(enough)

    async def looked(self) -> None:
        """Until every dispatcher has looked at its queue once more."""
        before = [dispatcher.looked_at for dispatcher in self.dispatchers]

        async def again() -> bool:
            return all(
                one.looked_at is not None and (then is None or one.looked_at > then)
                for one, then in zip(self.dispatchers, before, strict=True)
            )

        await eventually(again)

    async def close(self) -> None:
        self.may_end.set()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for running in self.running:
            await running.drain(5, lambda: False)


@pytest.fixture
async def fleet(redis: Redis) -> AsyncIterator[Fleet]:
    fleet = Fleet(redis)
    yield fleet
    await fleet.close()


def job(ident: str, route: str = "default", **more: Any) -> dict[str, Any]:
    return {"id": ident, "prompt": "x", "route": route, **more}


# The fleet and its routes


async def test_a_paused_fleet_begins_nothing_until_it_is_resumed(
    fleet: Fleet,
) -> None:
    await fleet.pause("fleet", reason="new prompts")
    await fleet.all_know("fleet")
    await fleet.installation.submit(job("a"), job("b", "slides"))
    await fleet.looked()
    await fleet.looked()
    assert fleet.started == []
    assert {one.bound for one in fleet.dispatchers} == {"paused:fleet"}
    assert (await fleet.installation.record("default//a"))["state"] == "queued"
    await fleet.resume("fleet")
    await fleet.has_started(2)


async def test_running_items_go_on_while_the_fleet_is_paused(fleet: Fleet) -> None:
    await fleet.installation.submit(job("a"))
    await fleet.has_started(1)
    await fleet.pause("fleet")
    await fleet.all_know("fleet")
    fleet.may_end.set()

    async def succeeded() -> bool:
        return (await fleet.installation.record("default//a"))["state"] == "succeeded"

    await eventually(succeeded)


async def test_a_paused_route_holds_up_no_other(fleet: Fleet) -> None:
    await fleet.pause("route", "slides")
    await fleet.all_know("route:slides")
    await fleet.installation.submit(job("a"), job("b", "slides"))
    await fleet.has_started(1)
    await fleet.looked()
    assert fleet.started == ["default//a"]
    await fleet.resume("route", "slides")
    await fleet.has_started(2)


async def test_a_pause_for_a_time_ends_by_itself(fleet: Fleet) -> None:
    await fleet.pause("fleet", for_s=0.4)
    await fleet.installation.submit(job("a"))
    await fleet.has_started(1)


async def test_a_pause_between_a_permit_and_its_slot_is_kept_and_costs_nothing(
    redis: Redis,
) -> None:
    fleet = Fleet(redis, {"requests": "1/2s"})
    await fleet.installation.submit(job("a"), job("b"))
    await fleet.has_started(1)
    # The next permit is granted up to 2 s ahead; its slot comes while the fleet is paused.
    await fleet.pause("fleet")
    await fleet.all_know("fleet")
    before = len(fleet.started)

    async def nothing_is_used() -> bool:
        (state,) = await Limiter(redis, "pixmill").snapshot([parse_quota("q", {"requests": "1/2s"})])
        return state.units[0].available == 1

    await eventually(nothing_is_used)
    assert len(fleet.started) == before
    await fleet.close()


async def test_a_replica_that_starts_into_a_pause_begins_nothing(redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit(job("a"))
    await pauses.pause(redis, installation.keys, "fleet")
    fleet = Fleet(redis)
    await fleet.looked()
    assert fleet.started == []
    await fleet.close()


async def test_items_expire_during_a_pause(fleet: Fleet) -> None:
    await fleet.pause("fleet")
    await fleet.all_know("fleet")
    await fleet.installation.submit(job("a", expires_at="2099-01-01T00:00:00Z"))
    await fleet.redis.zadd(fleet.keys.expiring, {"default//a": 1})
    await fleet.installation.queue.due()
    assert (await fleet.installation.record("default//a"))["state"] == "expired"


async def test_a_pause_holds_even_if_its_bell_is_missed(redis: Redis) -> None:
    book = PauseBook(redis, Installation(redis).keys, rung=asyncio.Event(), on_change=lambda: None)
    running = asyncio.create_task(book.run())
    await book.known.wait()
    await pauses.pause(redis, Installation(redis).keys, "fleet")

    async def known() -> bool:
        return book.over("default") is not None

    await eventually(known, 2.0)
    running.cancel()
    await asyncio.wait([running])


async def test_between_two_readings_the_local_clock_ends_a_pause(redis: Redis) -> None:
    now = 100.0
    keys = Installation(redis).keys
    book = PauseBook(redis, keys, rung=asyncio.Event(), on_change=lambda: None, clock=lambda: now)
    await pauses.pause(redis, keys, "fleet", for_s=60)
    await pauses.pause(redis, keys, "route", "slides", reason="broken")
    await book.read()
    over = book.over("slides")
    assert over is not None
    assert over.scope == "fleet"
    now += 61
    assert book.over("default") is None
    assert book.over("slides") == Pause("route", "slides", "broken")


async def test_pauses_that_end_by_themselves_leave_nothing_behind(redis: Redis) -> None:
    keys = Installation(redis).keys
    await pauses.pause(redis, keys, "route", "slides", for_s=60)
    await pauses.pause(redis, keys, "fleet", for_s=10)
    assert 10_000 < await redis.pttl(keys.paused) <= 60_000
    await pauses.pause(redis, keys, "route", "default")
    assert await redis.pttl(keys.paused) == -1
    await pauses.resume(redis, keys, "route", "default")
    assert 10_000 < await redis.pttl(keys.paused) <= 60_000


async def test_a_pause_that_ended_while_another_held_leaves_nothing_behind_either(redis: Redis) -> None:
    keys = Installation(redis).keys
    await pauses.pause(redis, keys, "route", "default")
    await pauses.pause(redis, keys, "route", "slides", for_s=0.001)

    async def ended() -> bool:
        return "route:slides" not in await read_pauses(redis, keys)

    await eventually(ended)
    await pauses.resume(redis, keys, "route", "default")

    async def gone() -> bool:
        return not await redis.exists(keys.paused)

    await eventually(gone)


async def test_every_reader_shows_a_pause(redis: Redis) -> None:
    installation = Installation(redis)
    await pauses.pause(redis, installation.keys, "route", "slides", reason='a "reason"', for_s=3600)
    await pauses.resume(redis, installation.keys, "route", "slides")
    (paused, begin), (resumed, end) = await installation.events()
    assert (paused, resumed) == ("work.paused", "work.resumed")
    assert (begin["scope"], begin["route"], begin["reason"]) == ("route", "slides", 'a "reason"')
    for kind, data in ((paused, begin), (resumed, end)):
        Event.model_validate({"type": kind, "data": data}).parsed()
    assert await read_pauses(redis, installation.keys) == {}
    assert await pauses.resume(redis, installation.keys, "fleet") == "nothing"


# A batch


@pytest.fixture
def installation(redis: Redis) -> Installation:
    return Installation(redis)


async def claimed(installation: Installation, count: int = 100) -> list[str]:
    return [item.uid for item in await installation.claim(count)]


async def test_a_paused_batch_is_not_claimed_and_others_take_their_turns(
    installation: Installation,
) -> None:
    await installation.batch("b1", 3)
    await installation.batch("b2", 2)
    assert await pauses.pause(installation.redis, installation.keys, "batch", "default/b1") == "ok"
    assert await claimed(installation) == ["default/b2/i0", "default/b2/i1"]
    assert await claimed(installation) == []
    assert not await installation.queue.waiting("default", ["high", "normal", "low"]), (
        "no permit is acquired in vain"
    )
    assert (await installation.group("default/b1"))["queued"] == "3"
    assert await pauses.resume(installation.redis, installation.keys, "batch", "default/b1") == "resumed"
    assert await claimed(installation) == [f"default/b1/i{k}" for k in range(3)], "in their order"


async def test_another_tenant_is_not_held_up_by_a_paused_batch(installation: Installation) -> None:
    await installation.batch("b1", 3)
    await installation.batch("b2", 2, tenant="other")
    await pauses.pause(installation.redis, installation.keys, "batch", "default/b1")
    assert await claimed(installation) == ["other/b2/i0", "other/b2/i1"]


async def test_a_batch_with_a_cap_is_paused_and_resumed_without_losing_count(
    installation: Installation,
) -> None:
    await installation.batch("b1", 5, max_in_flight=2)
    (first,) = await installation.claim(1)
    await pauses.pause(installation.redis, installation.keys, "batch", "default/b1")
    assert await claimed(installation) == []
    await installation.queue.settle(first, DONE)
    assert await claimed(installation) == []
    await pauses.resume(installation.redis, installation.keys, "batch", "default/b1")
    for _ in range(2):
        items = await installation.claim(10)
        assert len(items) == 2, "two at a time, as it allows itself"
        for item in items:
            await installation.queue.settle(item, DONE)
    group = await installation.group("default/b1")
    assert (group["state"], group["in_ring"], group["succeeded"]) == ("completed", "0", "5")


async def test_items_throttled_in_a_pause_stay_parked_until_the_resume(
    installation: Installation,
) -> None:
    await installation.batch("b1", 1)
    (item,) = await installation.claim(1)
    await pauses.pause(installation.redis, installation.keys, "batch", "default/b1")
    await installation.queue.settle(item, Throttled(BUSY, 0.0))
    await installation.queue.due()
    assert await claimed(installation) == []
    await pauses.resume(installation.redis, installation.keys, "batch", "default/b1")
    assert await claimed(installation) == ["default/b1/i0"]


async def test_items_in_every_lane_and_route_come_back(redis: Redis) -> None:
    installation = Installation(redis, routes=("default", "slides"))
    items = [
        {"id": f"{route}-{lane}", "route": route, "priority": lane}
        for route in ("default", "slides")
        for lane in ("high", "normal", "low")
    ]
    payload = {"id": "b1", "defaults": {"prompt": "x"}, "items": items}
    await installation.submit(payload, type="pixmill.batch.v1")
    await pauses.pause(redis, installation.keys, "batch", "default/b1")
    for route in ("default", "slides"):
        assert await installation.claim(10, route) == []
    await pauses.resume(redis, installation.keys, "batch", "default/b1")
    back = [item.uid for route in ("default", "slides") for item in await installation.claim(10, route)]
    assert sorted(back) == sorted(f"default/b1/{item['id']}" for item in items)


async def test_a_paused_batch_can_be_cancelled_and_its_items_expire(installation: Installation) -> None:
    await installation.batch("b1", 2)
    await pauses.pause(installation.redis, installation.keys, "batch", "default/b1")
    await installation.redis.zadd(installation.keys.expiring, {"default/b1/i0": 1})
    await installation.queue.due()
    await installation.submit({"batch": "b1"}, type="pixmill.cancel.v1")
    group = await installation.group("default/b1")
    assert (group["state"], group["expired"], group["cancelled"]) == ("completed_with_errors", "1", "1")
    assert "paused" not in group, "an end ends its pause"
    assert await claimed(installation) == []


async def test_a_batch_that_is_cancelled_while_it_is_parked_leaves_no_queue_behind(
    installation: Installation,
) -> None:
    await installation.batch("b1", 3)
    await pauses.pause(installation.redis, installation.keys, "batch", "default/b1")
    assert await claimed(installation) == [], "which parks it"
    await installation.submit({"batch": "b1"}, type="pixmill.cancel.v1")
    for _ in range(4):
        assert await claimed(installation) == []
    left = {key.decode().split(":")[1] for key in await installation.redis.keys("*")}
    assert not left & {"backlog", "turns", "ring"}


async def test_only_a_batch_that_runs_can_be_paused(installation: Installation) -> None:
    await installation.submit(job("single"), job("several", n=2))
    redis, keys = installation.redis, installation.keys
    assert await pauses.pause(redis, keys, "batch", "default/none") == "unknown"
    assert await pauses.pause(redis, keys, "batch", "default//several") == "unknown"
    await installation.batch("b1", 1)
    await installation.submit({"batch": "b1"}, type="pixmill.cancel.v1")
    assert await pauses.pause(redis, keys, "batch", "default/b1") == "ended"
    assert await pauses.resume(redis, keys, "batch", "default/b1") == "nothing"


async def test_a_batchs_pause_is_published_on_its_own_stream(installation: Installation) -> None:
    await installation.batch("b1", 1)
    await pauses.pause(installation.redis, installation.keys, "batch", "default/b1", reason="look first")
    kind, data = (await installation.events(installation.keys.batch_events("b1")))[-1]
    assert (kind, data["batch"], data["scope"], data["reason"]) == (
        "work.paused",
        "b1",
        "batch",
        "look first",
    )
    Event.model_validate({"type": kind, "data": data}).parsed()
