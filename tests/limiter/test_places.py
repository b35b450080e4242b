"""An ended call's release travels with the request that waits for its place, and is never late because of that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from limiter import Bound, Grant, InFlight, Later, Limiter, Permit, Places, Quota, Recalls, Slots

QUOTA = Quota("q", (InFlight(1),))
OTHER = Quota("other", (InFlight(1),))


class _Client(Redis):
    """Counts its calls. `before` is called before the next reply is passed on."""

    sent = 0
    away = 0
    before: Callable[[], object] | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        self.sent += 1
        if self.away:
            self.away -= 1
            raise RedisConnectionError("away")
        reply = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # so in redis-py
        if self.before is not None:
            before, self.before = self.before, None
            before()
        return reply


class _Process:
    """One process with its places; its callers are `w1/NAME`."""

    def __init__(self, redis: Redis) -> None:
        self.client = _Client(connection_pool=redis.connection_pool)
        self.limiter = Limiter(self.client, "{places}")
        self.places = Places(self.limiter)

    def slots(self, name: str = "a") -> Slots:
        return Slots(self.limiter, Recalls(), "w1", name, self.places)

    async def granted(self, slots: Slots, quota: Quota = QUOTA, *, more: bool = False) -> Permit:
        reply = await slots.request([quota], horizon_s=0, more=more)
        assert isinstance(reply, Grant)
        return slots.take(reply).permit

    async def denied(self, slots: Slots, quota: Quota = QUOTA) -> Later:
        reply = await slots.request([quota], horizon_s=0)
        assert isinstance(reply, Later)
        return reply

    async def next_place(self, slots: Slots, quota: Quota = QUOTA) -> Permit:
        while isinstance(reply := await slots.request([quota], horizon_s=0), Later):
            await slots.pause(reply)
        return slots.take(reply).permit

    async def waiting(self, slots: Slots, quota: Quota = QUOTA) -> asyncio.Task[Permit]:
        """A task that waits for its place, and has been denied one."""
        task = asyncio.create_task(self.next_place(slots, quota))
        sent = self.client.sent
        while self.client.sent == sent or not any(wait.rests for wait in self.places._waits.values()):
            await asyncio.sleep(0)
        return task

    async def in_flight(self, quota: Quota = QUOTA) -> int:
        [state] = await self.limiter.snapshot([quota])
        return state.in_flight


@pytest.fixture
async def process(redis: Redis) -> _Process:
    process = _Process(redis)
    # Let the server know the scripts.
    await process.limiter.release(await process.granted(process.slots()))
    return process


async def _soon(task: asyncio.Task[Permit]) -> Permit:
    return await asyncio.wait_for(task, 4)


async def test_a_release_goes_with_the_request_that_waits_for_its_place(process: _Process) -> None:
    slots = process.slots()
    permit = await process.granted(slots)
    waiting = await process.waiting(slots)
    sent = process.client.sent
    await process.places.release(permit)
    assert (await _soon(waiting)).grant_id != permit.grant_id
    assert process.client.sent == sent + 1, "one round trip ends a call and starts the next one"


async def test_calls_that_end_together_are_released_together(process: _Process) -> None:
    slots, two = process.slots(), Quota("two", (InFlight(2),))
    permits = [await process.granted(slots, two) for _ in range(2)]
    waiting = await process.waiting(slots, two)
    sent = process.client.sent
    await asyncio.gather(*map(process.places.release, permits))
    await _soon(waiting)
    assert process.client.sent == sent + 1
    assert await process.in_flight(two) == 1


@pytest.mark.parametrize("waits_for", ["nothing", "another quota"])
async def test_a_release_goes_alone_if_no_request_waits_for_its_place(
    process: _Process, waits_for: str
) -> None:
    slots = process.slots()
    permit = await process.granted(slots)
    if waits_for == "another quota":
        await process.granted(process.slots("other"), OTHER)
        await process.waiting(process.slots("b"), OTHER)
    sent = process.client.sent
    await process.places.release(permit)
    assert process.client.sent == sent + 1
    assert await process.in_flight() == 0


async def test_a_release_goes_alone_if_the_waiting_caller_does_not_come(process: _Process) -> None:
    slots = process.slots()
    permit = await process.granted(slots)
    denial = await process.denied(slots)
    await slots.pause(denial, 0)
    await process.places.release(permit)
    assert await process.in_flight() == 0


async def test_a_release_goes_alone_if_the_waiting_caller_leaves(process: _Process) -> None:
    slots = process.slots()
    permit = await process.granted(slots)
    waiting = await process.waiting(slots)
    release = asyncio.create_task(process.places.release(permit))
    await asyncio.sleep(0)
    waiting.cancel()
    await slots.leave()
    await release
    assert await process.in_flight() == 0


async def test_a_release_goes_alone_if_the_request_fails(process: _Process) -> None:
    slots = process.slots()
    permit = await process.granted(slots)
    waiting = await process.waiting(slots)
    process.client.away = 1
    await process.places.release(permit)
    with pytest.raises(RedisConnectionError):
        await _soon(waiting)
    assert await process.in_flight() == 0


async def test_a_release_that_fails_says_so(process: _Process) -> None:
    slots = process.slots()
    permit = await process.granted(slots)
    waiting = await process.waiting(slots)
    process.client.away = 2
    with pytest.raises(RedisConnectionError):
        await process.places.release(permit)
    waiting.cancel()
    await process.places.release(permit)
    assert await process.in_flight() == 0


async def test_a_cancelled_release_is_still_made(process: _Process) -> None:
    slots = process.slots()
    permit = await process.granted(slots)
    waiting = await process.waiting(slots)
    release = asyncio.create_task(process.places.release(permit))
    await asyncio.sleep(0)
    release.cancel()
    with pytest.raises(asyncio.CancelledError):
        await release
    assert (await _soon(waiting)).grant_id != permit.grant_id


async def test_the_denial_after_the_last_place_costs_no_round_trip(process: _Process) -> None:
    slots = process.slots()
    permit = await process.granted(slots, more=True)
    sent = process.client.sent
    denial = await process.denied(slots)
    assert denial.bound == Bound("q", "in_flight")
    assert process.client.sent == sent

    async def goes_on() -> Permit:
        await slots.pause(denial)
        return await process.next_place(slots)

    waiting = asyncio.create_task(goes_on())
    await asyncio.sleep(0)
    await process.places.release(permit)
    await _soon(waiting)
    assert process.client.sent == sent + 1


async def test_a_call_of_the_bell_before_the_reply_is_not_lost(process: _Process, redis: Redis) -> None:
    """The place was freed after the denial, and the bell's message overtook the reply."""
    holder = process.slots()
    permit = await process.granted(holder)
    slots = process.slots("b")
    process.client.before = lambda: process.places.note("slot w1/b")
    waiting = asyncio.create_task(process.next_place(slots))
    while process.client.before is not None:
        await asyncio.sleep(0)
    await process.limiter.release(permit)
    await _soon(waiting)


@pytest.mark.parametrize("message", ["slot w1/b", "slot w2/x w1/b", "quota q", "gap"])
async def test_the_bell_wakes_the_caller_that_it_names(process: _Process, message: str) -> None:
    permit = await process.granted(process.slots())
    slots = process.slots("b")
    waiting = await process.waiting(slots)
    await process.limiter.release(permit)
    if message == "gap":
        process.places.wake_all()
    else:
        assert process.places.note(message) == message.startswith("slot")
    await _soon(waiting)


@pytest.mark.parametrize(
    "message",
    ["slot w1/c", "slot w1", "slot", "quota other", "quota q 17", "quota q 17 9", "quota", "work b", ""],
)
async def test_other_messages_wake_no_caller(process: _Process, message: str) -> None:
    await process.granted(process.slots())
    waiting = await process.waiting(process.slots("b"))
    sent = process.client.sent
    process.places.note(message)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (process.client.sent, waiting.done()) == (sent, False)
    waiting.cancel()


@pytest.mark.parametrize("stands", ["after a denial", "after a grant", "after a lost denial"])
async def test_a_caller_that_leaves_is_no_longer_in_line(
    process: _Process, redis: Redis, stands: str
) -> None:
    slots = process.slots()
    if stands == "after a grant":
        await process.granted(slots, more=True)
    else:
        await process.granted(process.slots("holder"))
        await process.denied(slots)
    if stands == "after a lost denial":
        process.client.away = 1
        with pytest.raises(RedisConnectionError):
            await process.denied(slots)
    assert await redis.hkeys("{places}:limiter:q:waiting") == [b"w1/a"]
    await slots.leave()
    assert await redis.hkeys("{places}:limiter:q:waiting") == []
