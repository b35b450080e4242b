"""Holders that wait for a place in flight: whose turn it is, whom the bell calls, and that nobody starves."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from limiter import Bound, Grant, InFlight, Later, Permit, Quota, Window
from tests.limiter.conftest import Rig

S = 1_000_000
# In leases.lua: from then on places are kept for a holder that waits; it is called, and has so long to come.
PATIENCE_US, COMES_US = S, S // 2


class Line:
    """Holders that request one place after the other of one quota."""

    def __init__(self, rig: Rig, places: int) -> None:
        self.rig = rig
        self.quota = Quota("q", (InFlight(places),))
        self.permits: dict[str, list[Permit]] = {}
        self._numbers = 0

    async def request(
        self, holder: str, weight: int = 1, *, ended: list[Permit] | None = None, more: bool = False
    ) -> Grant | Later:
        self._numbers += 1
        reply = await self.rig.limiter.acquire(
            [self.quota],
            costs={"in_flight": weight},
            holder=holder,
            request_id=f"{holder}-{self._numbers}",
            max_wait_s=0,
            more=more,
            ended=ended or [],
        )
        for permit in ended or []:
            self.permits[permit.holder].remove(permit)
        if isinstance(reply, Grant):
            self.permits.setdefault(holder, []).append(reply.permit)
        return reply

    async def granted(self, *holders: str) -> None:
        for holder in holders:
            assert isinstance(await self.request(holder), Grant)

    async def denied(self, *holders: str) -> None:
        for holder in holders:
            assert isinstance(await self.request(holder), Later)

    async def ends(self, holder: str) -> None:
        assert await self.rig.limiter.release(self.permits[holder].pop(0))

    async def replaces(self, holder: str) -> bool:
        """Whether a holder that ends a call gets a place for its next one in the same step."""
        return isinstance(await self.request(holder, ended=[self.permits[holder][0]]), Grant)


@pytest.fixture
def line(rig: Rig) -> Line:
    return Line(rig, 4)


class Bell:
    """The messages of the bell so far."""

    def __init__(self, client: Redis, channel: str) -> None:
        self._client = client
        self._channel = channel
        self._bell: PubSub = client.pubsub(ignore_subscribe_messages=True)

    async def __aenter__(self) -> Bell:
        await self._bell.subscribe(self._channel)
        await self._bell.get_message(timeout=1)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._bell.aclose()  # type: ignore[no-untyped-call] # so in redis-py

    async def rang(self) -> list[str]:
        """The messages since the last time."""
        await self._client.publish(self._channel, "end")
        messages: list[str] = []
        async with asyncio.timeout(5):
            while True:
                message = await self._bell.get_message(timeout=5)
                if message is not None and message["data"] == b"end":
                    return messages
                if message is not None:
                    messages.append(message["data"].decode())


# Whose turn it is.


async def test_a_holder_that_ends_a_call_gets_its_place_back_among_equals(line: Line) -> None:
    await line.granted("a", "a", "b", "b")
    await line.denied("b", "a")
    line.rig.time.advance(2 * S)
    for holder in ("a", "b", "a", "a", "b"):
        assert await line.replaces(holder)
        line.rig.time.advance(2 * S)
        await line.denied("b", "a")


async def test_a_new_holder_without_a_place_is_first(line: Line) -> None:
    await line.granted("a", "a", "a", "b")
    await line.denied("a", "b")
    line.rig.time.advance(2 * S)
    await line.denied("new")
    line.rig.time.advance(PATIENCE_US)
    assert not await line.replaces("a")
    await line.granted("new")
    await line.denied("a", "b", "new")


async def test_the_holder_with_more_places_returns_one_to_the_holder_with_fewer(line: Line) -> None:
    await line.granted("a", "a", "a", "b")
    await line.denied("b")
    line.rig.time.advance(PATIENCE_US)
    assert not await line.replaces("a")
    await line.granted("b")


async def test_holders_of_one_place_take_turns(redis: Redis) -> None:
    line = Line(Rig(redis), 1)
    await line.granted("a")
    await line.denied("b")
    line.rig.time.advance(S // 10)
    await line.denied("c")
    turns = ["a"]
    for _ in range(5):
        line.rig.time.advance(4 * S)
        assert not await line.replaces(turns[-1]), "the others have waited longer"
        [turn] = [holder for holder in "abc" if isinstance(await line.request(holder), Grant)]
        turns.append(turn)
    assert turns == ["a", "b", "c", "a", "b", "c"]


async def test_a_short_call_is_followed_by_its_holders_next_one_for_a_second(redis: Redis) -> None:
    """So one place does not change hands with each call of a few milliseconds."""
    line = Line(Rig(redis), 1)
    await line.granted("a")
    await line.denied("b")
    line.rig.time.advance(PATIENCE_US - 1)
    assert await line.replaces("a")
    line.rig.time.advance(1)
    assert not await line.replaces("a")


async def test_two_routes_of_one_worker_are_two_holders(line: Line) -> None:
    await line.granted("w1/a", "w1/a", "w1/a", "w1/a")
    await line.denied("w1/b")
    line.rig.time.advance(PATIENCE_US)
    assert not await line.replaces("w1/a")
    await line.granted("w1/b")


async def test_a_heavy_call_is_granted_among_light_ones(line: Line) -> None:
    await line.granted("a", "b", "c", "d")
    turns = 0
    while not isinstance(await line.request("heavy", 4), Grant):
        line.rig.time.advance(S // 4)
        holder = "abcd"[turns % 4]
        if line.permits[holder]:
            await line.replaces(holder)
        turns += 1
        assert turns < 12


# A place for the next call.


async def test_a_grant_of_the_last_place_puts_its_holder_in_line(line: Line) -> None:
    async with Bell(line.rig.client, f"{line.rig.prefix}:bell") as bell:
        replies = [await line.request("a", more=True) for _ in range(4)]
        full = [reply.full for reply in replies if isinstance(reply, Grant)]
        assert full == [None, None, None, Bound("q", "in_flight")]
        await line.ends("a")
        assert await bell.rang() == ["slot a"]


async def test_without_a_next_call_a_grant_puts_nobody_in_line(line: Line) -> None:
    await line.granted("a", "a", "a", "a")
    async with Bell(line.rig.client, f"{line.rig.prefix}:bell") as bell:
        await line.ends("a")
        assert await bell.rang() == []


async def test_ended_calls_are_released_even_if_the_request_is_denied(line: Line) -> None:
    await line.granted("a", "b", "b", "b")
    await line.denied("c")
    line.rig.time.advance(PATIENCE_US)
    ended = [line.permits["a"][0], line.permits["b"][0]]
    async with Bell(line.rig.client, f"{line.rig.prefix}:bell") as bell:
        assert isinstance(await line.request("a", 2, ended=ended), Later)
        assert await bell.rang() == ["slot c"]
    [state] = await line.rig.limiter.snapshot([line.quota])
    assert state.in_flight == 2


async def test_a_repeated_request_with_ended_calls_releases_them_once(line: Line) -> None:
    await line.granted("a", "b", "b", "b")
    ended = list(line.permits["a"])
    options: dict[str, object] = {"holder": "a", "request_id": "again", "max_wait_s": 0, "ended": ended}
    replies = [await line.rig.limiter.acquire([line.quota], **options) for _ in range(2)]  # type: ignore[arg-type]
    assert replies[0] == replies[1]
    [state] = await line.rig.limiter.snapshot([line.quota])
    assert state.in_flight == 4


async def test_a_paused_quota_still_releases_ended_calls(line: Line) -> None:
    await line.granted("a")
    await line.rig.limiter.pause("q", "operator")
    assert isinstance(await line.request("a", ended=list(line.permits["a"])), Later)
    [state] = await line.rig.limiter.snapshot([line.quota])
    assert state.in_flight == 0


# Whom the bell calls.


async def test_each_freed_place_calls_the_next_holder_in_line(line: Line) -> None:
    await line.granted("a", "a", "a", "a")
    for holder in ("first", "second", "third"):
        await line.denied(holder)
        line.rig.time.advance(S // 10)
    async with Bell(line.rig.client, f"{line.rig.prefix}:bell") as bell:
        await line.ends("a")
        await line.ends("a")
        assert await bell.rang() == ["slot first", "slot second"], "and nobody twice"
        await line.granted("first", "second")
        await line.ends("a")
        assert await bell.rang() == ["slot third"]


async def test_a_place_that_is_given_back_calls_the_next_holder(line: Line) -> None:
    await line.granted("a", "a", "a", "a")
    await line.denied("b")
    async with Bell(line.rig.client, f"{line.rig.prefix}:bell") as bell:
        await line.rig.limiter.give_back(line.permits["a"][0])
        assert await bell.rang() == ["slot b"]


async def test_a_holder_that_leaves_the_line_passes_its_turn_on(line: Line) -> None:
    await line.granted("a", "a", "a", "a")
    await line.denied("b", "c")
    line.rig.time.advance(PATIENCE_US)
    async with Bell(line.rig.client, f"{line.rig.prefix}:bell") as bell:
        await line.ends("a")
        assert await bell.rang() == ["slot b"]
        await line.rig.limiter.leave_line("b", [line.quota])
        assert await bell.rang() == ["slot c"]
        await line.rig.limiter.leave_line("b", [line.quota])
        assert await bell.rang() == []
    await line.granted("c")


async def test_a_holder_that_waits_for_a_rate_is_not_in_line(line: Line) -> None:
    await line.granted("a", "a", "a", "a")
    await line.denied("b")
    await line.ends("a")
    await line.rig.limiter.penalise(line.quota, reason="429", retry_after_s=60)
    await line.denied("b")
    async with Bell(line.rig.client, f"{line.rig.prefix}:bell") as bell:
        await line.ends("a")
        assert await bell.rang() == []


async def test_after_a_loss_of_the_state_nobody_is_called_in_vain(line: Line) -> None:
    await line.granted("a", "b")
    await line.rig.client.delete(*await line.rig.client.keys(f"{line.rig.prefix}*"))
    async with Bell(line.rig.client, f"{line.rig.prefix}:bell") as bell:
        for _ in range(3):
            await line.denied("a", "b", "c")
        assert await bell.rang() == [], "the number of free places is unknown for a lease"


async def test_a_holder_that_finds_another_quota_paused_passes_its_turn_on(rig: Rig) -> None:
    shared, own = Quota("shared", (InFlight(1),)), Quota("own", (InFlight(5),))

    async def request(holder: str, *quotas: Quota) -> Grant | Later:
        return await rig.limiter.acquire(
            quotas, holder=holder, request_id=holder, max_wait_s=0, costs={"in_flight": 1}
        )

    running = await request("running", shared)
    assert isinstance(running, Grant)
    for holder, quotas in (("a", [own, shared]), ("b", [shared])):
        assert isinstance(await request(holder, *quotas), Later)
    await rig.limiter.pause("own", "operator")
    async with Bell(rig.client, f"{rig.prefix}:bell") as bell:
        await rig.limiter.release(running.permit)
        assert await bell.rang() == ["slot a"]
        assert isinstance(await request("a", own, shared), Later)
        assert await bell.rang() == ["slot b"]
    assert isinstance(await request("b", shared), Grant)


async def test_a_holder_that_sleeps_until_its_slot_is_not_in_line_meanwhile(rig: Rig) -> None:
    quota = Quota("q", (InFlight(2), Window(1, 10 * S)))

    async def granted(holder: str) -> Grant:
        grant = await rig.limiter.acquire(
            [quota], costs={"requests": 1}, holder=holder, request_id=holder, max_wait_s=60, more=True
        )
        assert isinstance(grant, Grant)
        return grant

    await granted("other")
    grant = await granted("a")
    assert grant.wait_us == 10 * S + 100_000
    assert grant.full is None


async def test_a_dead_holder_is_called_once_and_keeps_a_place_only_briefly(line: Line) -> None:
    await line.granted("a", "a", "a", "a")
    await line.denied("dead")
    line.rig.time.advance(PATIENCE_US)
    assert not await line.replaces("a")
    line.rig.time.advance(COMES_US)
    await line.denied("a")
    line.rig.time.advance(1)
    await line.granted("a")


async def test_the_place_of_a_lapsed_lease_is_announced_to_the_first_in_line(line: Line) -> None:
    await line.granted("dead", "a", "a", "a")
    await line.denied("b")
    line.rig.time.advance(7 * S)
    await line.denied("b")
    line.rig.time.advance(7 * S)
    await line.rig.limiter.renew(line.permits["a"])
    await line.denied("b")
    line.rig.time.advance(S)
    async with Bell(line.rig.client, f"{line.rig.prefix}:bell") as bell:
        assert await line.replaces("a")
        assert await bell.rang() == ["slot b"]


# Nobody starves.


@dataclass
class _Caller:
    """A holder that always has a next call of one weight; calls are the times at which they end."""

    name: str
    weight: int
    wants: int
    calls: list[tuple[int, Permit]] = field(default_factory=list)
    since_us: int | None = None
    longest_us: int = 0
    served: int = 0


LONGEST_CALL_US = 6 * S
STEP_US = S // 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25)
@given(
    places=st.integers(1, 6),
    weights=st.lists(st.sampled_from([1, 1, 1, 2, 4]), min_size=2, max_size=6),
    wants=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
async def test_every_holder_is_served_and_the_places_suffice(
    redis: Redis, places: int, weights: list[int], wants: int, seed: int
) -> None:
    """Each holder always wants `wants` calls at once. While it waits, it asks only when it is called, or looks."""
    rig, draw = Rig(redis), random.Random(seed)
    line = Line(rig, places)
    callers = [_Caller(f"h{number}", min(weight, places), wants) for number, weight in enumerate(weights)]
    looks: dict[str, int] = {caller.name: 0 for caller in callers}
    async with Bell(redis, f"{rig.prefix}:bell") as bell:
        for step in range(160):
            now = step * STEP_US
            rig.time.now_us = rig.time.start_us + now
            for name in [name for message in await bell.rang() for name in message.split()[1:]]:
                looks[name] = now
            draw.shuffle(callers)
            for caller in callers:
                ended = [permit for end_us, permit in caller.calls if end_us <= now]
                caller.calls = [call for call in caller.calls if call[0] > now]
                if ended and len(caller.calls) == caller.wants:
                    await rig.limiter.release(ended.pop())
                while len(caller.calls) < caller.wants and (ended or looks[caller.name] <= now):
                    caller.since_us = now if caller.since_us is None else caller.since_us
                    line.permits.setdefault(caller.name, []).extend(ended)
                    reply = await line.request(caller.name, caller.weight, ended=ended)
                    ended = []
                    if isinstance(reply, Later):
                        looks[caller.name] = now + reply.retry_us
                        break
                    caller.longest_us = max(caller.longest_us, now - caller.since_us)
                    caller.since_us, caller.served, looks[caller.name] = None, caller.served + 1, now
                    caller.calls.append((now + draw.randrange(STEP_US, LONGEST_CALL_US), reply.permit))
            await rig.limiter.renew([permit for caller in callers for _, permit in caller.calls])
            used = sum(caller.weight * len(caller.calls) for caller in callers)
            assert used <= places
    for caller in callers:
        waited = now - caller.since_us if caller.since_us is not None else 0
        # Before it are its own calls, and at most one call of each other holder.
        assert max(caller.longest_us, waited) <= (len(callers) + 1) * LONGEST_CALL_US + PATIENCE_US
        assert caller.served
