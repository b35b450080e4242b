"""Calls in flight: leases stop at their count, end by themselves, and can change hands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from limiter import Bound, Grant, Later, Limiter, Permit, QuotaError, parse_quota
from limiter.quota.limits import guard_us
from tests.limiter.conftest import Rig

S = 1_000_000
IMAGES = parse_quota("img", {"images": "2/10s"})
LEASES = parse_quota("lease", {"in_flight": 2})
SPAN = 10 * S + guard_us(10 * S)


async def test_leases_stop_at_their_count_and_say_so(rig: Rig) -> None:
    for _ in range(2):
        await rig.permit(LEASES)
    assert await rig.request(LEASES) == Later(5 * S, Bound("lease", "in_flight"))
    rig.time.advance(15 * S - 1)
    assert isinstance(await rig.request(LEASES), Later)
    rig.time.advance(1)
    assert isinstance(await rig.request(LEASES), Grant)


async def test_a_lease_covers_the_wait_for_its_slot(rig: Rig) -> None:
    one = parse_quota("one", {"in_flight": 1})
    for _ in range(2):
        await rig.slot(IMAGES)
    await rig.permit(IMAGES, one)
    rig.time.advance(SPAN + 15 * S - 1)
    assert isinstance(await rig.request(one), Later)
    rig.time.advance(1)
    assert isinstance(await rig.request(one), Grant)


async def test_a_release_frees_its_lease_once_and_rings_once(server: Redis) -> None:
    rig = Rig(server)
    permits = [await rig.permit(LEASES) for _ in range(2)]
    assert isinstance(await rig.request(LEASES), Later)
    async with server.pubsub(ignore_subscribe_messages=True) as bell:
        await bell.subscribe(f"{rig.prefix}:bell")
        await bell.get_message(timeout=1)
        assert [await rig.limiter.release(permits[0]) for _ in range(3)] == [True, False, False]
        await rig.limiter.give_back(permits[0])
        await server.publish(f"{rig.prefix}:bell", "end")
        messages = [message["data"] async for message in _until_end(bell)]
    assert messages == [b"slot replica-1", b"end"]
    assert isinstance(await rig.request(LEASES), Grant)
    assert isinstance(await rig.request(LEASES), Later)


async def test_renewed_leases_live_on_and_the_lost_ones_are_named(rig: Rig) -> None:
    kept, lost = await rig.permit(LEASES, IMAGES), await rig.permit(LEASES)
    unleased = await rig.permit(IMAGES)
    await rig.limiter.release(lost)
    rig.time.advance(14 * S)
    assert await rig.limiter.renew([kept, lost, unleased]) == [lost]
    rig.time.advance(14 * S)
    [state] = await rig.limiter.snapshot([LEASES])
    assert state.in_flight == 1


async def test_renewing_never_brings_a_released_lease_back(rig: Rig) -> None:
    permit = await rig.permit(LEASES)
    await rig.limiter.release(permit)
    await rig.limiter.renew([permit])
    [state] = await rig.limiter.snapshot([LEASES])
    assert state.in_flight == 0


async def test_a_stalled_holder_counts_again_once_it_renews(rig: Rig) -> None:
    stalled = await rig.permit(LEASES)
    rig.time.advance(20 * S)
    for _ in range(2):
        await rig.permit(LEASES)
    assert await rig.limiter.renew([stalled]) == []
    [state] = await rig.limiter.snapshot([LEASES])
    assert (state.in_flight, state.units[0].available) == (3, 0)


async def test_another_replica_can_adopt_a_permit_from_its_text(rig: Rig) -> None:
    permit = await rig.permit(LEASES, IMAGES)
    adopted = Permit.from_json(permit.to_json())
    assert adopted == permit
    assert len(permit.to_json()) < 160
    other = Limiter(rig.client, rig.prefix, clock=rig.time)
    assert await other.renew([adopted]) == []
    assert await other.release(adopted)
    assert not await rig.limiter.release(permit)


@pytest.mark.parametrize("text", ["", "{}", "[1,2]", "null"])
def test_a_text_that_is_no_permit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a permit"):
        Permit.from_json(text)


async def _until_end(bell: PubSub) -> AsyncIterator[dict[str, Any]]:
    while True:
        message = await bell.get_message(timeout=5)
        assert message is not None
        yield message
        if message["data"] == b"end":
            return


async def test_a_call_of_four_images_weighs_four(rig: Rig) -> None:
    quota = parse_quota("ideogram", {"in_flight": {"images": 10}})
    permits = [await rig.request(quota, costs={"images": 4}) for _ in range(2)]
    assert isinstance(await rig.request(quota, costs={"images": 3}), Later)
    two = await rig.request(quota, costs={"images": 2})
    assert isinstance(two, Grant)
    [state] = await rig.limiter.snapshot([quota])
    assert (state.in_flight, state.units[0].available) == (10, 0)
    assert isinstance(permits[0], Grant)
    adopted = Permit.from_json(permits[0].permit.to_json())
    assert await rig.limiter.renew([adopted]) == []
    assert await rig.limiter.release(adopted)
    [state] = await rig.limiter.snapshot([quota])
    assert state.in_flight == 6


async def test_a_caller_may_name_the_weight_itself(rig: Rig) -> None:
    assert isinstance(await rig.request(LEASES, costs={"in_flight": 2}), Grant)
    assert isinstance(await rig.request(LEASES), Later)


async def test_a_weight_that_can_never_fit_is_refused_at_once(rig: Rig) -> None:
    with pytest.raises(QuotaError, match="can never be granted"):
        await rig.request(LEASES, costs={"in_flight": 3})


async def test_a_submitted_job_counts_after_its_worker_died_until_it_must_have_ended(rig: Rig) -> None:
    one = parse_quota("one", {"in_flight": 1})
    permit = await rig.permit(one)
    rig.time.advance(2 * S)
    await rig.limiter.submitted(permit, longest_s=300)
    await rig.limiter.renew([permit])
    rig.time.advance(300 * S - 1)
    assert isinstance(await rig.request(one), Later)
    rig.time.advance(1)
    assert isinstance(await rig.request(one), Grant)


async def test_the_next_owner_of_a_submitted_job_adopts_its_lease_and_ends_it(rig: Rig) -> None:
    one = parse_quota("one", {"in_flight": 1})
    permit = await rig.permit(one)
    await rig.limiter.submitted(permit, longest_s=300)
    rig.time.advance(100 * S)
    other = Limiter(rig.client, rig.prefix, clock=rig.time)
    adopted = Permit.from_json(permit.to_json())
    assert await other.renew([adopted]) == []
    assert await other.release(adopted)
    assert isinstance(await rig.request(one), Grant)


async def test_a_job_that_was_not_submitted_is_free_when_its_heartbeat_ends(rig: Rig) -> None:
    one = parse_quota("one", {"in_flight": 1})
    await rig.permit(one)
    rig.time.advance(15 * S)
    assert isinstance(await rig.request(one), Grant)
