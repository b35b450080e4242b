"""A route under two limits on calls in flight, of the account and of the model: it takes both places or none."""

from __future__ import annotations

from typing import Any

import pytest

from limiter import Bound, Grant, InFlight, Later, Permit, Quota
from tests.limiter.conftest import Rig
from tests.limiter.test_line import Bell

S = 1_000_000
ACCOUNT, MODEL = Quota("account", (InFlight(2),)), Quota("model", (InFlight(1),))
BOTH = (ACCOUNT, MODEL)


async def _request(
    rig: Rig, holder: str, *quotas: Quota, ended: tuple[Permit, ...] = (), more: bool = False
) -> Grant | Later:
    return await rig.limiter.acquire(
        quotas, costs={}, holder=holder, request_id=holder, max_wait_s=0, ended=ended, more=more
    )


async def _permit(rig: Rig, holder: str, *quotas: Quota) -> Permit:
    reply = await _request(rig, holder, *quotas)
    assert isinstance(reply, Grant)
    return reply.permit


async def _denied(rig: Rig, holder: str, full: Quota) -> None:
    reply = await _request(rig, holder, *BOTH)
    assert isinstance(reply, Later)
    assert reply.bound == Bound(full.name, "in_flight")


async def _in_line(rig: Rig, quota: Quota) -> list[str]:
    waiting: Any = await rig.client.hkeys(f"{rig.prefix}:limiter:{quota.name}:waiting")
    return sorted(holder.decode() for holder in waiting)


@pytest.fixture
async def full_model(rig: Rig) -> Permit:
    """The permit of the one call that the model allows."""
    return await _permit(rig, "first", *BOTH)


async def test_a_call_for_a_full_model_leaves_the_accounts_places_to_others(
    rig: Rig, full_model: Permit
) -> None:
    await _denied(rig, "waits", MODEL)
    [account, _] = await rig.limiter.snapshot(BOTH)
    assert account.in_flight == 1
    rig.time.advance(2 * S)
    await _permit(rig, "other", ACCOUNT)
    assert (await _in_line(rig, ACCOUNT), await _in_line(rig, MODEL)) == ([], ["waits"])


async def test_the_end_of_the_models_call_calls_the_waiting_holder(rig: Rig, full_model: Permit) -> None:
    await _permit(rig, "other", ACCOUNT)
    await _denied(rig, "waits", ACCOUNT)
    async with Bell(rig.client, f"{rig.prefix}:bell") as bell:
        await rig.limiter.release(full_model)
        assert await bell.rang() == ["slot waits"]
    assert (await _permit(rig, "waits", *BOTH)).leased == ("account", "model")
    assert (await _in_line(rig, ACCOUNT), await _in_line(rig, MODEL)) == ([], [])


async def test_a_holder_stands_only_in_the_line_of_the_limit_that_is_full_now(
    rig: Rig, full_model: Permit
) -> None:
    other = await _permit(rig, "other", ACCOUNT)
    await _denied(rig, "waits", ACCOUNT)
    assert (await _in_line(rig, ACCOUNT), await _in_line(rig, MODEL)) == (["waits"], ["waits"])
    await rig.limiter.release(other)
    await _denied(rig, "waits", MODEL)
    assert (await _in_line(rig, ACCOUNT), await _in_line(rig, MODEL)) == ([], ["waits"])


async def test_an_ended_call_of_the_account_is_released_though_the_model_is_full(
    rig: Rig, full_model: Permit
) -> None:
    other = await _permit(rig, "other", ACCOUNT)
    reply = await _request(rig, "waits", *BOTH, ended=(other,))
    assert isinstance(reply, Later)
    assert [state.in_flight for state in await rig.limiter.snapshot(BOTH)] == [1, 1]


async def test_a_grant_of_the_models_last_place_predicts_the_denial(rig: Rig) -> None:
    reply = await _request(rig, "one", *BOTH, more=True)
    assert isinstance(reply, Grant)
    assert reply.full == Bound("model", "in_flight")
    assert (await _in_line(rig, ACCOUNT), await _in_line(rig, MODEL)) == ([], ["one"])
