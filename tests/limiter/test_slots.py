"""A caller that waits for its permits with Slots leaves no unused charge in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from limiter import Grant, InFlight, Later, Limiter, Quota, QuotaError, Recalls, Slot, Slots, Window
from tests.limiter.conftest import Rig

S = 1_000_000
LEASE_S = 15.0
# One call a second; a call holds a place in flight, so its permit has a lease.
QUOTA = Quota("q", (Window(1, S), InFlight(4)))
UNLEASED = Quota("q", (Window(1, S),))
# From one slot of these quotas to the next: the period and its guard.
APART_S = 1.01
MOST_PASSES = 400


class _Client(Redis):
    """Counts what it sends. It can lose replies, find full memory, or find no server at all."""

    sent = 0
    loses = 0
    refused = 0
    away: RedisError | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        self.sent += 1
        if self.away is not None:
            raise self.away
        if self.refused:
            self.refused -= 1
            raise OutOfMemoryError("memory is full")
        reply = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # so in redis-py
        if self.loses:
            self.loses -= 1
            raise RedisConnectionError("the reply is lost")
        return reply


class _Replica:
    """A limiter and the recalls of one process, in the same virtual time; its clock starts at 0 s."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.client = _Client(connection_pool=redis.connection_pool)
        self.rig = Rig(self.client, LEASE_S)
        self.recalls = Recalls(self.now_s)

    @property
    def limiter(self) -> Limiter:
        return self.rig.limiter

    def now_s(self) -> float:
        return (self.rig.time.now_us - self.rig.time.start_us) / 1e6

    def advance(self, seconds: float) -> None:
        """Let time pass, and let the sleepers see it: they wait in real time otherwise."""
        self.rig.time.advance(round(seconds * 1e6))
        self.recalls.note("quota unrelated 0")

    def slots(self, name: str = "route") -> Slots:
        return Slots(self.limiter, self.recalls, "replica-1", name)

    async def charged(self) -> tuple[int, int]:
        """The calls that the window counts and the places that are taken, now or at a later slot."""
        books = f"{self.rig.prefix}:limiter:q"
        return await self.redis.zcard(f"{books}:log:requests"), await self.redis.zcard(f"{books}:leases")

    async def lose_reply(self, slots: Slots, horizon_s: float = 10.0) -> None:
        self.client.loses = 1
        with pytest.raises(RedisConnectionError, match="the reply is lost"):
            await slots.request([QUOTA], horizon_s=horizon_s)


@pytest.fixture
def replica(redis: Redis) -> _Replica:
    return _Replica(redis)


async def _granted(slots: Slots, quota: Quota = QUOTA) -> Grant:
    reply = await slots.request([quota], horizon_s=10.0)
    assert isinstance(reply, Grant)
    return reply


async def _denied(slots: Slots, quota: Quota = QUOTA, horizon_s: float = 0.1) -> Later:
    reply = await slots.request([quota], horizon_s=horizon_s)
    assert isinstance(reply, Later)
    return reply


async def _far_grant(replica: _Replica, slots: Slots, quota: Quota = QUOTA) -> Grant:
    """A grant whose slot is not now, since another caller has the one before."""
    other = replica.slots("other")
    other.take(await _granted(other, quota))
    grant = await _granted(slots, quota)
    assert grant.wait_us == APART_S * 1e6
    return grant


async def _reserved(replica: _Replica, slots: Slots) -> Later:
    """A denial with a reservation, since another caller has the slot before."""
    other = replica.slots("other")
    other.take(await _granted(other))
    assert (await _denied(slots)).reservation is None
    denial = await _denied(slots)
    assert denial.reservation is not None
    return denial


async def _slot(waiting: Awaitable[Slot | None]) -> Slot | None:
    """The end of a wait; a test whose virtual time stands still fails instead of waiting for ever."""
    return await asyncio.wait_for(waiting, 5)


async def _waiting(slots: Slots, grant: Grant) -> asyncio.Task[Slot | None]:
    """A task that sleeps until the slot of the grant."""
    task = asyncio.create_task(slots.wait(grant))
    await asyncio.sleep(0.01)
    assert not task.done()
    return task


# One grant for each caller.


async def test_two_slots_of_one_holder_and_name_never_share_a_grant(replica: _Replica) -> None:
    """A second Slots that began to count anew would get the first grant again, and charge nothing."""
    first_slots, second_slots = replica.slots("polls"), replica.slots("polls")
    first, second = await _granted(first_slots), await _granted(second_slots)
    assert first.permit.request_id != second.permit.request_id
    assert first.permit.grant_id != second.permit.grant_id
    assert (first.wait_us, second.wait_us) == (0, APART_S * 1e6)
    assert await replica.charged() == (2, 2)
    await first_slots.leave()
    assert await replica.charged() == (1, 1)
    assert second_slots.take(second).permit == second.permit


async def test_slots_made_after_others_ended_begin_with_a_new_grant(replica: _Replica) -> None:
    """As the poll pacer does: its Slots live as long as polls wait, and the next ones come soon after."""
    permits = []
    for _ in range(3):
        slots = replica.slots("polls")
        permits.append(slots.take(await _granted(slots)).permit)
        await slots.leave()
    assert len({permit.grant_id for permit in permits}) == 3
    assert await replica.charged() == (3, 3)


async def test_each_request_after_a_slot_is_a_new_one(replica: _Replica) -> None:
    slots = replica.slots()
    first = slots.take(await _granted(slots))
    second = slots.take(await _granted(slots))
    assert second.at == pytest.approx(first.at + APART_S)
    assert await replica.charged() == (2, 2)


async def test_a_slot_comes_when_its_time_has_come(replica: _Replica) -> None:
    slots = replica.slots()
    grant = await _far_grant(replica, slots)
    waiting = await _waiting(slots, grant)
    replica.advance(APART_S - 0.01)
    await asyncio.sleep(0.001)
    assert not waiting.done()
    replica.advance(0.01)
    assert await _slot(waiting) == Slot(grant.permit, APART_S, APART_S, 0.0)
    await slots.leave()
    assert await replica.charged() == (2, 2), "what is used stays charged"


# A lost reply.


async def test_a_request_with_a_lost_reply_is_repeated_and_charged_once(replica: _Replica) -> None:
    slots = replica.slots()
    for _ in range(2):
        await replica.lose_reply(slots)
        replica.advance(0.25)
    grant = await _granted(slots)
    assert grant.permit.granted_us == replica.rig.time.start_us, "this is the grant of the first try"
    assert await replica.charged() == (1, 1)
    slot = await _slot(slots.wait(grant))
    # Its first try was at 0 s, and granted the slot of that moment; the call leaves at 0.5 s.
    assert slot is not None
    assert (slot.requested_at, slot.at) == (0.0, 0.5)


async def test_a_recall_after_the_lost_first_reply_recalls_the_grant(replica: _Replica) -> None:
    """The repeat was sent after the recall, but the grant is older: only the time of the first try shows it."""
    slots = replica.slots()
    await replica.lose_reply(slots)
    replica.advance(0.1)
    replica.recalls.note("quota q")
    replica.advance(0.1)
    assert await _slot(slots.wait(await _granted(slots))) is None
    assert await replica.charged() == (0, 0)


async def test_a_try_after_a_denial_counts_from_its_own_time(replica: _Replica) -> None:
    """A denied try was granted nothing, so a recall before the next try means other grants."""
    slots = replica.slots()
    await _reserved(replica, slots)
    replica.advance(0.5)
    replica.recalls.note("quota q")
    replica.advance(0.5)
    waiting = asyncio.create_task(slots.wait(await _granted(slots)))
    await asyncio.sleep(0.01)
    replica.advance(0.1)
    slot = await _slot(waiting)
    assert slot is not None
    assert slot.requested_at == 1.0


async def test_a_denied_request_stays_the_same_until_it_is_granted(replica: _Replica) -> None:
    slots = replica.slots()
    denial = await _reserved(replica, slots)
    assert denial.reservation is not None
    replica.advance(APART_S)
    grant = await _granted(slots)
    assert grant.permit.request_id == denial.reservation.request_id
    assert (grant.wait_us, await replica.charged()) == (0, (1, 2)), "the first call has left the window"


async def test_the_next_request_after_a_repeated_one_is_a_new_one(replica: _Replica) -> None:
    slots = replica.slots()
    await replica.lose_reply(slots)
    first = slots.take(await _granted(slots))
    second = slots.take(await _granted(slots))
    assert first.permit.request_id != second.permit.request_id
    assert await replica.charged() == (2, 2)


# Unused charges are given back.


async def test_leave_gives_back_a_grant_without_a_wait(replica: _Replica) -> None:
    slots = replica.slots()
    await _granted(slots)
    assert await replica.charged() == (1, 1)
    await slots.leave()
    assert await replica.charged() == (0, 0)


async def test_a_new_request_gives_back_the_grant_before_it(replica: _Replica) -> None:
    slots = replica.slots()
    first = await _granted(slots)
    second = await _granted(slots)
    assert first.permit.request_id != second.permit.request_id
    assert second.wait_us == 0
    assert await replica.charged() == (1, 1)


async def test_leave_gives_back_the_grant_of_a_cancelled_waiter(replica: _Replica) -> None:
    slots = replica.slots()
    waiting = await _waiting(slots, await _far_grant(replica, slots))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await replica.charged() == (2, 2)
    await slots.leave()
    assert await replica.charged() == (1, 1)


async def test_leave_gives_back_a_reservation(replica: _Replica) -> None:
    slots = replica.slots()
    await _reserved(replica, slots)
    assert await replica.charged() == (2, 1)
    await slots.leave()
    assert await replica.charged() == (1, 1)


async def test_leave_gives_back_the_grant_of_a_lost_reply(replica: _Replica) -> None:
    slots = replica.slots()
    await replica.lose_reply(slots)
    assert await replica.charged() == (1, 1)
    await slots.leave()
    assert await replica.charged() == (0, 0)


async def test_leave_gives_back_the_reservation_of_a_lost_reply(replica: _Replica) -> None:
    slots = replica.slots()
    other = replica.slots("other")
    other.take(await _granted(other))
    await _denied(slots)
    await replica.lose_reply(slots, horizon_s=0.1)
    assert await replica.charged() == (2, 1)
    await slots.leave()
    assert await replica.charged() == (1, 1)


async def test_leave_gives_back_a_reservation_even_if_its_repeated_request_is_refused(
    replica: _Replica,
) -> None:
    slots = replica.slots()
    await _reserved(replica, slots)
    replica.client.refused = 2
    with pytest.raises(OutOfMemoryError):
        await slots.request([QUOTA], horizon_s=0.1)
    await slots.leave()
    assert replica.client.refused == 0
    assert await replica.charged() == (1, 1)


async def test_leave_charges_nothing_for_a_request_that_never_arrived(replica: _Replica) -> None:
    slots = replica.slots()
    replica.client.away = RedisConnectionError("away")
    with pytest.raises(RedisConnectionError):
        await slots.request([QUOTA], horizon_s=10.0)
    replica.client.away = None
    await slots.leave()
    assert await replica.charged() == (0, 0)


@pytest.mark.parametrize("lost", [False, True], ids=["granted", "reply lost"])
async def test_a_cancelled_leave_gives_everything_back(replica: _Replica, lost: bool) -> None:
    for passes in range(1, MOST_PASSES):
        slots = replica.slots()
        await (replica.lose_reply(slots) if lost else _granted(slots))
        leaving = asyncio.create_task(slots.leave())
        for _ in range(passes):
            await asyncio.sleep(0)
        if leaving.done():
            break
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await replica.charged() == (0, 0)
    assert leaving.done()
    assert passes > 1


@pytest.mark.parametrize("reserves", [False, True], ids=["grant", "reservation"])
async def test_a_request_that_is_cancelled_and_left_is_charged_nothing(
    replica: _Replica, reserves: bool
) -> None:
    other = replica.slots("other")
    other.take(await _granted(other))
    for passes in range(1, MOST_PASSES):
        slots = replica.slots()
        if reserves:
            await _denied(slots)
        requesting = asyncio.create_task(slots.request([QUOTA], horizon_s=0.1 if reserves else 10.0))
        for _ in range(passes):
            await asyncio.sleep(0)
        over = requesting.done()
        requesting.cancel()
        await asyncio.wait([requesting])
        assert requesting.cancelled() is not over
        await slots.leave()
        assert await replica.charged() == (1, 1)
        if over:
            break
    assert over
    assert passes > 1


async def test_leave_without_anything_sends_nothing(replica: _Replica) -> None:
    slots = replica.slots()
    await slots.leave()
    assert replica.client.sent == 0
    other = replica.slots("other")
    other.take(await _granted(other))
    await _denied(slots)
    # A denial without a reservation charged nothing.
    sent = replica.client.sent
    await slots.leave()
    assert replica.client.sent == sent


async def test_to_leave_twice_is_to_leave_once(replica: _Replica) -> None:
    slots = replica.slots()
    await _granted(slots)
    await slots.leave()
    sent = replica.client.sent
    await slots.leave()
    assert replica.client.sent == sent
    assert await replica.charged() == (0, 0)


async def test_a_taken_slot_stays_charged_after_leave(replica: _Replica) -> None:
    slots = replica.slots()
    slots.take(await _granted(slots))
    sent = replica.client.sent
    await slots.leave()
    assert replica.client.sent == sent
    assert await replica.charged() == (1, 1)


# A recalled grant.


async def test_a_grant_that_is_recalled_during_the_wait_is_given_back(replica: _Replica) -> None:
    slots = replica.slots()
    waiting = await _waiting(slots, await _far_grant(replica, slots))
    replica.recalls.note("quota q")
    assert await _slot(waiting) is None
    assert await replica.charged() == (1, 1)


async def test_a_grant_that_is_recalled_before_the_wait_is_given_back(replica: _Replica) -> None:
    slots = replica.slots()
    grant = await _granted(slots)
    replica.recalls.note("quota q")
    assert await _slot(slots.wait(grant)) is None
    assert await replica.charged() == (0, 0)
    replica.advance(0.1)
    assert await _slot(slots.wait(await _granted(slots))) is not None


@pytest.mark.parametrize("asleep", [False, True], ids=["before the wait", "asleep"])
@pytest.mark.parametrize(
    ("quota", "late_s", "kept"),
    [
        pytest.param(QUOTA, LEASE_S / 2 - 0.1, True, id="less than half a lease"),
        pytest.param(QUOTA, LEASE_S / 2 + 0.1, False, id="more than half a lease"),
        pytest.param(UNLEASED, 100 * LEASE_S, True, id="no lease"),
    ],
)
async def test_a_process_that_stood_still_keeps_only_its_own_places(
    replica: _Replica, quota: Quota, late_s: float, kept: bool, asleep: bool
) -> None:
    """After its lease a place in flight may be another call's; a late call counts from when it leaves."""
    slots = replica.slots()
    grant = await _far_grant(replica, slots, quota)
    before = await replica.charged()
    if asleep:
        waiting = await _waiting(slots, grant)
        replica.advance(APART_S + late_s)
        slot = await _slot(waiting)
    else:
        # Its reply was read late. The whole wait follows, so the call leaves never early.
        replica.advance(late_s)
        waiting = await _waiting(slots, grant)
        replica.advance(APART_S)
        slot = await _slot(waiting)
    if kept:
        assert slot is not None
        assert (slot.permit, slot.requested_at) == (grant.permit, 0.0)
        assert slot.at == pytest.approx(APART_S + late_s)
        assert await replica.charged() == (1, before[1]), "the other call no longer counts"
    else:
        assert slot is None
        assert await replica.charged() == (1, 1)


async def test_a_late_call_whose_units_others_have_requests_anew(replica: _Replica) -> None:
    slots = replica.slots()
    waiting = await _waiting(slots, await _far_grant(replica, slots))
    other = replica.slots("another")
    other.take(await _granted(other))
    replica.advance(2 * APART_S + 0.1)
    assert await _slot(waiting) is None
    assert await replica.charged() == (2, 2), "the calls of the others"


# When to try again.


async def test_the_next_try_waits_half_a_horizon_longer_than_the_denial(replica: _Replica) -> None:
    slots = replica.slots()
    other = replica.slots("other")
    quota = Quota("q", (Window(1, 10 * S),))
    other.take(await _granted(other, quota))
    denial = await _denied(slots, quota, horizon_s=2.0)
    assert denial.bound.cause == "requests"
    assert slots.retry_s(denial) == denial.retry_us / 1e6 + 1.0
    replica.advance(slots.retry_s(denial))
    assert (await _granted(slots, quota)).wait_us == 1.0 * S


async def test_the_next_try_after_a_cooldown_waits_half_a_horizon_longer(replica: _Replica) -> None:
    slots = replica.slots()
    await replica.limiter.penalise(QUOTA, reason="429", retry_after_s=30)
    denial = await _denied(slots, horizon_s=2.0)
    assert denial.bound.cause == "cooldown"
    assert slots.retry_s(denial) == denial.retry_us / 1e6 + 1.0


async def test_the_next_try_for_a_place_in_flight_waits_no_longer(replica: _Replica) -> None:
    """The time at which a place is freed is unknown, so no slot comes near meanwhile."""
    slots = replica.slots()
    other = replica.slots("other")
    quota = Quota("q", (InFlight(1),))
    other.take(await _granted(other, quota))
    denial = await _denied(slots, quota, horizon_s=2.0)
    assert denial.bound.cause == "in_flight"
    assert slots.retry_s(denial) == denial.retry_us / 1e6


async def test_the_next_try_of_a_paused_quota_waits_no_longer(replica: _Replica) -> None:
    slots = replica.slots()
    await replica.limiter.pause("q", "operator")
    denial = await _denied(slots, horizon_s=2.0)
    assert denial.bound.cause == "paused"
    assert slots.retry_s(denial) == denial.retry_us / 1e6


# Only the last grant has a slot.


async def test_only_the_grant_requested_last_can_be_taken(replica: _Replica) -> None:
    slots = replica.slots()
    first = await _granted(slots)
    second = await _granted(slots)
    for grant in (first, await _granted(replica.slots())):
        with pytest.raises(ValueError, match="requested last"):
            slots.take(grant)
        with pytest.raises(ValueError, match="requested last"):
            await slots.wait(grant)
    assert slots.take(second).permit == second.permit
    with pytest.raises(ValueError, match="requested last"):
        slots.take(second)


async def test_a_grant_that_was_left_cannot_be_taken(replica: _Replica) -> None:
    slots = replica.slots()
    grant = await _granted(slots)
    await slots.leave()
    with pytest.raises(ValueError, match="requested last"):
        slots.take(grant)


# While Redis is away.


@pytest.mark.parametrize("away", [RedisConnectionError("away"), RedisTimeoutError("no reply")], ids=repr)
@pytest.mark.parametrize("holds", ["grant", "reservation", "lost reply"])
async def test_leave_raises_nothing_while_redis_is_away(
    replica: _Replica, holds: str, away: RedisError
) -> None:
    slots = replica.slots()
    match holds:
        case "grant":
            await _granted(slots)
        case "reservation":
            await _reserved(replica, slots)
        case _:
            await replica.lose_reply(slots)
    before = await replica.charged()
    replica.client.away = away
    sent = replica.client.sent
    await slots.leave()
    assert replica.client.sent > sent, "it tried"
    replica.client.away = None
    assert await replica.charged() == before, "one call's quota is lost"
    # It is over for this caller: nothing is left to try, and its next request is a new one.
    sent = replica.client.sent
    await slots.leave()
    assert replica.client.sent == sent
    await _granted(slots)
    assert (await replica.charged())[0] == before[0] + 1


async def test_a_broken_connection_does_not_keep_a_grant(replica: _Replica) -> None:
    """As after a restart of Redis: the first call fails, the next one makes a connection of its own."""
    slots = replica.slots()
    await _granted(slots)
    replica.client.refused = 1
    await slots.leave()
    assert await replica.charged() == (0, 0)


async def test_a_wait_for_a_recalled_grant_ends_while_redis_is_away(replica: _Replica) -> None:
    slots = replica.slots()
    waiting = await _waiting(slots, await _far_grant(replica, slots))
    replica.client.away = RedisConnectionError("away")
    replica.recalls.note("quota q")
    assert await _slot(waiting) is None


# A request that no wait could fit.

TOO_MUCH = {"requests": 2}


async def test_leave_after_a_cost_that_never_fits_raises_nothing(replica: _Replica) -> None:
    slots = replica.slots()
    with pytest.raises(QuotaError):
        await slots.request([QUOTA], TOO_MUCH, horizon_s=0.1)
    await slots.leave()
    assert await replica.charged() == (0, 0)


async def test_a_cost_that_never_fits_does_not_keep_the_reservation(replica: _Replica) -> None:
    slots = replica.slots()
    await _reserved(replica, slots)
    with pytest.raises(QuotaError):
        await slots.request([QUOTA], TOO_MUCH, horizon_s=0.1)
    await slots.leave()
    assert await replica.charged() == (1, 1)


async def test_a_cost_that_never_fits_does_not_keep_a_lost_grant(replica: _Replica) -> None:
    slots = replica.slots()
    await replica.lose_reply(slots)
    with pytest.raises(QuotaError):
        await slots.request([QUOTA], TOO_MUCH, horizon_s=0.1)
    await slots.leave()
    assert await replica.charged() == (0, 0)
