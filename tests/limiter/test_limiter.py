"""The promises of a permit, in virtual time; each claim holds on a real Valkey and on fakeredis."""

from __future__ import annotations

from typing import Any

import pytest

from limiter import Bound, Grant, Later, Limiter, Quota, QuotaError, parse_quota
from limiter.quota.limits import guard_us
from tests.limiter.conftest import Rig, on_valkey

S = 1_000_000
IMAGES = parse_quota("img", {"images": "2/10s"})
BUCKET = parse_quota("bucket", {"requests": {"rate": "60/min", "burst": 3}})
LEASES = parse_quota("lease", {"in_flight": 2})
SPAN = 10 * S + guard_us(10 * S)
LAG = 30_000


async def test_two_hundred_jobs_take_the_optimum_and_three_guards(rig: Rig) -> None:
    quota = parse_quota("api", {"requests": "50/5s"})
    slots = [await rig.slot(quota) for _ in range(200)]
    assert slots[-1] == quota.optimum_s(200) * S + 3 * guard_us(5 * S)
    assert slots == sorted(slots)


@on_valkey
async def test_a_bucket_starts_full_and_then_keeps_its_rate_exactly(rig: Rig) -> None:
    quota = parse_quota("odd", {"requests": {"rate": "59/min", "burst": 3}})
    slots = [await rig.slot(quota) for _ in range(3 + 590)]
    assert slots[:3] == [0, 0, 0]
    assert slots[-1] == 590 * 60 * S // 59 + 30_508 == quota.optimum_s(593) * S + 30_508


async def test_all_limits_are_charged_at_the_slot_that_suits_all(rig: Rig) -> None:
    assert [await rig.slot(IMAGES, BUCKET) for _ in range(3)] == [0, 0, SPAN]
    # The bucket was charged at SPAN, not at once: the token of now is free, and so are those that come back
    # meanwhile, up to the one that the reservation needs.
    assert [await rig.slot(BUCKET) for _ in range(10)] == [0, *(second * S + LAG for second in range(1, 10))]
    assert await rig.slot(BUCKET) == SPAN - SPAN % S + S + LAG


async def test_a_call_takes_a_gap_before_later_reservations(rig: Rig) -> None:
    await rig.limiter.penalise(Quota("bucket"), retry_after_s=3, reason="429")
    assert await rig.slot(IMAGES, BUCKET) == 3 * S
    assert await rig.slot(IMAGES) == 0
    assert await rig.slot(IMAGES) == SPAN


async def test_a_call_with_another_cost_waits_for_as_many_places(rig: Rig) -> None:
    quota = parse_quota("img", {"images": "4/10s"})
    assert await rig.slot(quota, costs={"images": 3}) == 0
    rig.time.advance(2 * S)
    assert await rig.slot(quota, costs={"images": 1}) == 2 * S
    assert await rig.slot(quota, costs={"images": 4}) == 2 * S + SPAN


async def test_a_unit_that_costs_nothing_is_not_limited(rig: Rig) -> None:
    quota = parse_quota("p", {"polls": "1/10s"})
    assert [await rig.slot(quota) for _ in range(3)] == [0, 0, 0]
    assert [await rig.slot(quota, costs={"polls": 1}) for _ in range(2)] == [0, SPAN]


@pytest.mark.parametrize("quota", [IMAGES, parse_quota("b", {"images": {"rate": "1/s", "burst": 2}})])
@pytest.mark.parametrize("cost", [3, -1])
async def test_a_cost_that_can_never_fit_is_refused_at_once(rig: Rig, quota: Quota, cost: int) -> None:
    with pytest.raises(QuotaError, match="can never be granted"):
        await rig.request(quota, costs={"images": cost})
    assert await rig.dump() == {}


async def test_a_quota_named_twice_is_refused(rig: Rig) -> None:
    with pytest.raises(QuotaError, match="twice"):
        await rig.request(IMAGES, IMAGES)


async def test_a_denial_names_its_bound_and_the_time_of_the_next_try(rig: Rig) -> None:
    for _ in range(2):
        await rig.slot(IMAGES)
    assert await rig.request(IMAGES, max_wait_s=0) == Later(SPAN, Bound("img", "images"))
    assert await rig.request(IMAGES, BUCKET, max_wait_s=4) == Later(SPAN - 4 * S, Bound("img", "images"))
    rig.time.advance(SPAN - 4 * S)
    assert isinstance(await rig.request(IMAGES, BUCKET, max_wait_s=4), Grant)


@pytest.mark.parametrize("obstacle", ["window", "in_flight", "cooldown", "paused", "cost"])
async def test_a_denied_call_changes_no_key(rig: Rig, obstacle: str) -> None:
    quotas = (BUCKET, IMAGES, LEASES)
    await rig.permit(*quotas)
    if obstacle == "window":
        await rig.slot(IMAGES)
    elif obstacle == "in_flight":
        await rig.permit(LEASES)
    elif obstacle == "cooldown":
        await rig.limiter.penalise(Quota("bucket"), retry_after_s=5, reason="429")
    elif obstacle == "paused":
        await rig.limiter.pause("img", "maintenance", None)
    rig.time.advance(1)
    before = await rig.dump()
    if obstacle == "cost":
        with pytest.raises(QuotaError):
            await rig.request(*quotas, costs={"requests": 1, "images": 9})
    else:
        assert isinstance(await rig.request(*quotas, max_wait_s=0), Later)
    after = await rig.dump()
    # A place among those who wait is no charge.
    waiting = f"{rig.prefix}:limiter:lease:waiting".encode()
    assert (after.pop(waiting, None) is not None) == (obstacle == "in_flight")
    assert after == before


async def test_a_repeated_request_has_one_grant_and_is_charged_once(rig: Rig) -> None:
    quotas = (IMAGES, BUCKET, LEASES)
    await rig.request(*quotas)
    first = await rig.request(*quotas, request_id="r")
    before = await rig.dump()
    rig.time.advance(S)
    again = await rig.request(*quotas, request_id="r")
    assert isinstance(first, Grant)
    assert isinstance(again, Grant)
    assert again.permit == first.permit
    assert again.wait_us == first.wait_us - S, "below nothing: it is late by so much"
    assert await rig.dump() == before


async def test_a_repeated_request_waits_only_for_the_rest(rig: Rig) -> None:
    for _ in range(2):
        await rig.slot(IMAGES)
    await rig.request(IMAGES, request_id="r")
    rig.time.advance(4 * S)
    again = await rig.request(IMAGES, request_id="r")
    assert isinstance(again, Grant)
    assert again.wait_us == SPAN - 4 * S
    assert (again.permit.granted_us, again.permit.slot_us) == (rig.time.start_us, rig.time.start_us + SPAN)


async def test_a_given_back_window_and_lease_are_as_if_never_taken(rig: Rig) -> None:
    await rig.permit(IMAGES, LEASES)
    [before] = await rig.limiter.snapshot([IMAGES])
    permit = await rig.permit(IMAGES, LEASES)
    for _ in range(2):
        await rig.limiter.give_back(permit)
        assert await rig.limiter.snapshot([IMAGES]) == [before]
    assert await rig.slot(IMAGES, LEASES) == 0
    assert isinstance(await rig.request(LEASES), Later)


async def test_giving_back_takes_nothing_from_a_later_grant_of_the_same_request(rig: Rig) -> None:
    old = await rig.permit(IMAGES, LEASES, request_id="r")
    await rig.limiter.release(old)
    new = await rig.permit(IMAGES, LEASES, request_id="r")
    assert new.grant_id != old.grant_id
    before = await rig.limiter.snapshot([LEASES])
    await rig.limiter.release(old)
    assert await rig.limiter.snapshot([LEASES]) == before
    assert await rig.request(IMAGES, LEASES, request_id="r") == Grant(new, 0)


async def test_a_released_calls_place_in_the_window_stays_taken(rig: Rig) -> None:
    for _ in range(2):
        await rig.limiter.release(await rig.permit(IMAGES, request_id="same"))
    assert await rig.slot(IMAGES) == SPAN


async def test_bucket_tokens_come_back_if_nothing_was_granted_since(rig: Rig) -> None:
    permits = [await rig.permit(BUCKET) for _ in range(4)]
    await rig.limiter.give_back(permits[3])
    await rig.limiter.give_back(permits[3])
    assert await rig.slot(BUCKET) == S + LAG


async def test_bucket_tokens_come_back_even_after_later_grants(rig: Rig) -> None:
    permits = [await rig.permit(BUCKET) for _ in range(5)]
    await rig.limiter.give_back(permits[0])
    assert [await rig.slot(BUCKET) for _ in range(2)] == [0, 3 * S + LAG]


async def test_a_cooldown_holds_for_every_replica_and_is_never_shortened(rig: Rig) -> None:
    other = Limiter(rig.client, rig.prefix, clock=rig.time)
    await rig.limiter.penalise(Quota("img"), retry_after_s=5, reason="first")
    await other.penalise(Quota("img"), retry_after_s=2, reason="second")
    assert await rig.request(IMAGES, BUCKET, max_wait_s=0) == Later(5 * S, Bound("img", "cooldown"))
    [state] = await rig.limiter.snapshot([IMAGES])
    assert (state.cooldown_s, state.cooldown_reason) == (5.0, "first")
    await other.penalise(Quota("img"), retry_after_s=7, reason="third")
    assert await rig.slot(IMAGES, BUCKET) == 7 * S
    assert await rig.slot(BUCKET) == 0


async def test_an_operators_pause_lasts_until_resumed(rig: Rig) -> None:
    await rig.limiter.pause("img", "billing: ask Ana", None)
    rig.time.advance(86_400 * S)
    assert await rig.request(IMAGES) == Later(S, Bound("img", "paused"))
    [state] = await rig.limiter.snapshot([IMAGES])
    assert state.paused_reason == "billing: ask Ana"
    assert [await rig.limiter.resume("img") for _ in range(2)] == [True, False]
    assert await rig.slot(IMAGES) == 86_400 * S


async def test_an_operators_pause_with_an_end_ends_there(rig: Rig) -> None:
    await rig.limiter.pause("img", "lunch", rig.time.now_us + 10 * S)
    assert isinstance(await rig.request(IMAGES), Later)
    rig.time.advance(10 * S)
    assert isinstance(await rig.request(IMAGES), Grant)
    [state] = await rig.limiter.snapshot([IMAGES])
    assert state.paused_reason is None


async def test_a_snapshot_shows_the_free_units_and_changes_nothing(rig: Rig) -> None:
    quotas = [IMAGES, BUCKET, LEASES]
    await rig.permit(*quotas)
    rig.time.advance(S // 2)
    before = await rig.dump()
    states = await rig.limiter.snapshot(quotas)
    assert [
        (state.quota, unit.unit, unit.capacity, unit.available) for state in states for unit in state.units
    ] == [
        ("img", "images", 2, 1),
        ("bucket", "requests", 3, 2),
        ("lease", "in_flight", 2, 1),
    ]
    assert [state.in_flight for state in states] == [0, 0, 1]
    assert await rig.dump() == before


async def test_a_changed_limit_keeps_earlier_use(rig: Rig) -> None:
    for _ in range(3):
        await rig.slot(IMAGES, BUCKET)
    smaller = parse_quota("img", {"images": "1/10s"})
    slower = parse_quota("bucket", {"requests": {"rate": "1/2s", "burst": 1}})
    assert await rig.slot(smaller, slower) == 2 * SPAN


async def test_every_key_dies_by_itself_but_an_open_pause(rig: Rig) -> None:
    quotas = [IMAGES, BUCKET, LEASES]
    permits = [await rig.permit(*quotas) for _ in range(2)]
    await rig.limiter.renew(permits)
    await rig.limiter.give_back(permits[1])
    await rig.limiter.penalise(Quota("img"), retry_after_s=1, reason="429")
    await rig.limiter.pause("img", "until a time", rig.time.now_us + S)
    await rig.limiter.pause("lease", "until resumed", None)
    keys: list[Any] = await rig.client.keys("*")
    assert {key.decode().rpartition(":limiter:")[2].split(":", 1)[-1].split(":")[0] for key in keys} == {
        "clock", "log", "tokens", "leases", "cooldown", "pause", "permit",
    }  # fmt: skip
    without = [key for key in keys if await rig.client.pttl(key) < 0]
    assert without == [f"{rig.prefix}:limiter:lease:pause".encode()]


async def test_a_forgotten_script_is_no_event(rig: Rig) -> None:
    slots = []
    for _ in range(4):
        slots.append(await rig.slot(IMAGES))
        await rig.client.script_flush()
    assert slots == [0, 0, SPAN, SPAN]
    await rig.limiter.snapshot([IMAGES])


@pytest.mark.parametrize("wait_s", [-1, float("nan")])
async def test_a_wait_needs_a_length(rig: Rig, wait_s: float) -> None:
    with pytest.raises(ValueError, match="max_wait_s"):
        await rig.request(IMAGES, max_wait_s=wait_s)


async def test_a_wait_may_be_without_end(rig: Rig) -> None:
    assert isinstance(await rig.request(IMAGES, max_wait_s=float("inf")), Grant)


async def test_a_call_so_late_that_its_place_was_swept_counts_when_it_is_sent(rig: Rig) -> None:
    quota = parse_quota("api", {"requests": "2/s"})
    late = await rig.permit(quota)
    rig.time.advance(5 * S)
    await rig.slot(quota)
    assert await rig.client.zcard(f"{rig.prefix}:limiter:api:log:requests") == 1, "its own has been swept"
    await rig.limiter.retime(late, [quota])
    assert isinstance(await rig.request(quota, max_wait_s=0), Later)
