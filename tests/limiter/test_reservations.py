"""A reservation: a request that is denied twice has a slot that no other takes, although it is too far away."""

from __future__ import annotations

import asyncio

import pytest

from limiter import Bound, Bucket, CalendarDay, FixedWindow, Grant, InFlight, Later, Quota, Window
from limiter.quota.limits import EXACT_MOST, Limit
from tests.limiter.conftest import Rig

S = 1_000_000
COST = {"requests": 2}
# A limit of each kind that two units fill.
LIMITS: list[Limit] = [Window(2, S), Bucket(2, S, 2), FixedWindow(2, S), CalendarDay(2, "UTC")]


async def denied(rig: Rig, *quotas: Quota, request_id: str, after: Later | None = None) -> Later:
    answer = await rig.request(*quotas, costs=COST, max_wait_s=0.1, request_id=request_id, after=after)
    assert isinstance(answer, Later)
    return answer


async def reserve(rig: Rig, *quotas: Quota, request_id: str = "patient") -> Later:
    """The denial of a request that was denied before; it has a reservation."""
    later = await denied(
        rig, *quotas, request_id=request_id, after=await denied(rig, *quotas, request_id=request_id)
    )
    assert later.reservation is not None
    return later


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: type(limit).__name__)
async def test_no_other_call_takes_the_slot_of_a_reservation(rig: Rig, limit: Limit) -> None:
    quota = Quota("q", (limit,))
    await rig.request(quota, costs=COST)
    reservation = await reserve(rig, quota)
    other = await rig.request(quota, costs=COST, max_wait_s=1e6)
    assert isinstance(other, Grant)
    assert other.wait_us > reservation.retry_us + 100_000
    rig.time.advance(reservation.retry_us)
    answer = await rig.request(quota, costs=COST, max_wait_s=0.1, request_id="patient", after=reservation)
    assert isinstance(answer, Grant)
    assert answer.wait_us == 100_000


@pytest.mark.parametrize(
    "limit", [*LIMITS, Window(EXACT_MOST + 1, S)], ids=lambda limit: type(limit).__name__
)
@pytest.mark.parametrize("how", ["given back", "not wanted any more"])
async def test_a_reservation_that_is_left_was_charged_once_and_is_charged_no_more(
    rig: Rig, limit: Limit, how: str
) -> None:
    quota = Quota("q", (limit,))

    async def requested(request_id: str, after: Later | None = None) -> Later:
        costs = {"requests": limit.most}
        answer = await rig.request(quota, costs=costs, max_wait_s=0, request_id=request_id, after=after)
        assert isinstance(answer, Later)
        return answer

    await rig.request(quota, costs={"requests": limit.most})
    before = await requested("other")
    reservation = await requested("patient", after=before)
    for _ in range(3):
        reservation = await requested("patient", after=reservation)
    assert reservation.reservation is not None
    assert (await requested("other")).retry_us > before.retry_us
    for _ in range(2):
        if how == "given back":
            await rig.limiter.give_back(reservation.reservation)
        else:
            assert await requested("patient") == before
    assert await requested("other") == before
    # The new owner of the slot keeps it, however often the former one tries.
    assert isinstance(await rig.request(quota, costs={"requests": limit.most}, max_wait_s=1e6), Grant)
    for _ in range(2):
        assert (await requested("patient")).retry_us > before.retry_us


async def test_a_first_denial_makes_no_reservation(rig: Rig) -> None:
    quota = Quota("q", (Window(2, S),))
    await rig.request(quota, costs=COST)
    before = await rig.dump()
    assert (await denied(rig, quota, request_id="patient")).reservation is None
    assert await rig.dump() == before


async def test_a_reservation_that_is_requested_again_is_charged_once_and_stays(
    rig: Rig,
) -> None:
    quota = Quota("q", (Window(2, S), Window(3, 10 * S)))
    await rig.request(quota, costs=COST)
    reservation = await reserve(rig, quota)
    for _ in range(5):
        rig.time.advance(100_000)
        again = await denied(rig, quota, request_id="patient", after=reservation)
        assert (again.reservation and again.reservation.slot_us) == (
            reservation.reservation and reservation.reservation.slot_us
        )
        reservation = again
    assert await rig.client.zcard(f"{rig.prefix}:limiter:q:log:requests") == 4


async def test_a_reservation_moves_to_an_earlier_slot_when_one_is_free(rig: Rig) -> None:
    quota = Quota("q", (Window(2, S),))
    await rig.request(quota, costs=COST)
    reserved = await rig.request(quota, costs=COST)
    assert isinstance(reserved, Grant)
    reservation = await reserve(rig, quota)
    await rig.limiter.give_back(reserved.permit)
    again = await denied(rig, quota, request_id="patient", after=reservation)
    assert again.reservation
    assert reservation.reservation
    assert again.reservation.slot_us == reservation.reservation.slot_us - 1_010_000


async def test_a_reservation_waits_for_a_cooldown_like_every_call(rig: Rig) -> None:
    quota = Quota("q", (Window(2, S),))
    await rig.request(quota, costs=COST)
    reservation = await reserve(rig, quota)
    await rig.limiter.penalise(quota, reason="429", retry_after_s=30)
    rig.time.advance(reservation.retry_us)
    again = await denied(rig, quota, request_id="patient", after=reservation)
    assert again.bound == Bound("q", "cooldown")
    rig.time.advance(again.retry_us)
    assert isinstance(
        await rig.request(quota, costs=COST, max_wait_s=0.1, request_id="patient", after=again), Grant
    )


async def test_an_operators_pause_ends_a_reservation(rig: Rig) -> None:
    quota = Quota("q", (Window(2, S),))
    await rig.request(quota, costs=COST)
    reservation = await reserve(rig, quota)
    await rig.limiter.pause("q", "stop")
    again = await denied(rig, quota, request_id="patient", after=reservation)
    assert (again.bound, again.reservation) == (Bound("q", "paused"), None)
    assert await rig.client.zcard(f"{rig.prefix}:limiter:q:log:requests") == 2


async def test_a_reservation_holds_no_place_in_flight(rig: Rig) -> None:
    """A place that waits for a far slot would be missing to the account's other routes."""
    account, model = Quota("account", (InFlight(2),)), Quota("model", (Window(2, S),))
    first = await rig.request(account, model, costs=COST)
    assert isinstance(first, Grant)
    reservation = await reserve(rig, account, model)
    assert isinstance(await rig.request(account, costs=COST, max_wait_s=0), Grant)
    # Now the places are taken: a request with a reservation waits for one like any other, and its slot is free again.
    rig.time.advance(reservation.retry_us)
    assert (await denied(rig, account, model, request_id="patient", after=reservation)).bound == Bound(
        "account", "in_flight"
    )
    assert isinstance(await rig.request(model, costs=COST, max_wait_s=0.1), Grant)


async def test_a_caller_that_is_cancelled_has_no_reservation(rig: Rig) -> None:
    quota = Quota("q", (Window(2, S),))
    await rig.request(quota, costs=COST)
    first = await denied(rig, quota, request_id="patient")
    for passes in range(60):
        waiting = asyncio.ensure_future(denied(rig, quota, request_id="patient", after=first))
        for _ in range(passes):
            await asyncio.sleep(0)
        if waiting.done():
            break
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await rig.client.zcard(f"{rig.prefix}:limiter:q:log:requests") == 2
    assert passes > 1
