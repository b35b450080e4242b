"""No call starves: the backlog before it bounds its wait, whatever is beside it and however far it looks ahead."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from limiter import Bucket, Grant, Later, Quota, Window
from tests.limiter.conftest import Rig

S = 1_000_000
_FLEXIBLE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

_PARENTS = st.one_of(
    st.builds(Window, st.sampled_from([8, 12]), st.sampled_from([S, 2 * S])),
    st.builds(Bucket, st.sampled_from([8, 12]), st.sampled_from([S, 2 * S]), st.sampled_from([4, 8])),
)


@dataclass(order=True)
class _Caller:
    """Requests one call after the other and names its denials; `waits_us` are their waits."""

    wakes_us: int
    order: int
    quotas: tuple[Quota, ...] = field(compare=False)
    cost: int = field(compare=False)
    asked_us: int = field(compare=False, default=0)
    denial: Later | None = field(compare=False, default=None)
    waits_us: list[int] = field(compare=False, default_factory=list)


async def _run(rig: Rig, callers: list[_Caller], horizon_s: float, until_us: int) -> None:
    draw = random.Random(1)
    turns = sorted(callers)
    while turns[0].wakes_us < until_us:
        caller = turns[0]
        rig.time.now_us = rig.time.start_us + caller.wakes_us
        answer = await rig.request(
            *caller.quotas,
            costs={"requests": caller.cost},
            max_wait_s=horizon_s,
            request_id=f"{caller.order}:{len(caller.waits_us)}",
            after=caller.denial,
        )
        caller.denial = answer if isinstance(answer, Later) else None
        if isinstance(answer, Grant):
            caller.wakes_us += answer.wait_us
            caller.waits_us.append(caller.wakes_us - caller.asked_us)
            caller.asked_us = caller.wakes_us
        else:
            caller.wakes_us += answer.retry_us + draw.randrange(20_000)
        heapq.heapreplace(turns, caller)
    for caller in callers:
        caller.waits_us.append(until_us - caller.asked_us)


def _period_us(limit: Window | Bucket) -> int:
    """In how long all of what a limit can grant at once comes back, guards and lags included."""
    if isinstance(limit, Window):
        return limit.span_us
    return -(-limit.burst * limit.period_us // limit.count) + limit.lag_us


@settings(_FLEXIBLE, max_examples=60)
@given(
    parent=_PARENTS,
    costs=st.lists(st.sampled_from([1, 1, 1, 2, 4]), min_size=2, max_size=10),
    slow=st.integers(0, 4),
    starts_us=st.lists(st.integers(0, 3 * S), min_size=10, max_size=10),
)
async def test_a_reserving_caller_waits_for_the_backlog_and_one_period(
    redis: Redis, parent: Window | Bucket, costs: list[int], slow: int, starts_us: list[int]
) -> None:
    """Big and small calls under one account, some of them under a slow model of their own besides."""
    rig, shared = Rig(redis), Quota("account", (parent,))
    model = Quota("model", (Window(2, S),))
    callers = []
    for order, cost in enumerate(costs):
        own = order < slow and cost <= 2
        quotas = (model, shared) if own else (shared,)
        callers.append(_Caller(starts_us[order], order, quotas, cost, starts_us[order]))
    await _run(rig, callers, 3600.0, 20 * S)
    # Ahead is at most one call of everybody else, which each quota works off in so many periods.
    ahead = sum(caller.cost for caller in callers)
    bound_us = (ahead // parent.most + 2) * _period_us(parent)
    bound_us += (sum(caller.cost for caller in callers if len(caller.quotas) == 2) // 2 + 2) * 1_010_000
    for caller in callers:
        bound = (
            bound_us if len(caller.quotas) == 2 else (ahead // (parent.most // 2) + 2) * _period_us(parent)
        )
        assert max(caller.waits_us) <= bound


PARENTS = [Window(8, S), Bucket(8, S, 8)]


@pytest.mark.parametrize(
    ("parent", "horizon_s"),
    [(parent, horizon_s) for parent in PARENTS for horizon_s in (0.02, 0.1, 0.5, 2.0, 3600.0)],
    ids=lambda value: type(value).__name__ if isinstance(value, Window | Bucket) else f"{value} s",
)
async def test_a_slow_and_a_fast_route_share_the_account_at_any_horizon(
    redis: Redis, parent: Window | Bucket, horizon_s: float
) -> None:
    """16 fast callers beside 4 of a model with 1/s; a caller that looks ahead less than the backlog has a reservation
    when it is denied twice."""
    rig, shared = Rig(redis), Quota("account", (parent,))
    model = Quota("model", (Window(1, S),))
    callers = [_Caller(0, order, (shared,), 1) for order in range(16)]
    callers += [_Caller(0, 16 + order, (model, shared), 1) for order in range(4)]
    await _run(rig, callers, horizon_s, 20 * S)
    sent = [len(caller.waits_us) - 1 for caller in callers]
    assert sum(sent) >= 0.95 * 20 * 8
    assert sum(sent[16:]) >= 15
    assert max(max(caller.waits_us) for caller in callers[:16]) <= (3.1 if horizon_s > 20 else 4.1) * S
    assert max(max(caller.waits_us) for caller in callers[16:]) <= 7.5 * S


async def _longest_wait_of_a_large_call_us(redis: Redis, parent: Window | Bucket, horizon_s: float) -> int:
    rig, shared = Rig(redis), Quota("account", (parent,))
    callers = [_Caller(0, order, (shared,), 1) for order in range(12)]
    callers.append(_Caller(0, 12, (shared,), parent.most))
    await _run(rig, callers, horizon_s, 20 * S)
    return max(next(caller for caller in callers if caller.cost > 1).waits_us)


@pytest.mark.parametrize("parent", PARENTS, ids=["window", "bucket"])
async def test_a_call_of_all_units_is_granted_among_small_ones_if_it_reserves(
    redis: Redis, parent: Window | Bucket
) -> None:
    # Ahead are 12 small calls and the one before: three periods and its own guard.
    assert await _longest_wait_of_a_large_call_us(redis, parent, 3600.0) <= 3 * 1_010_000


@pytest.mark.parametrize("horizon_s", [0.02, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("parent", PARENTS, ids=["window", "bucket"])
async def test_a_call_of_all_units_is_granted_with_a_shorter_horizon(
    redis: Redis, parent: Window | Bucket, horizon_s: float
) -> None:
    # Denied twice, it has a reservation behind those that existed by then.
    assert await _longest_wait_of_a_large_call_us(redis, parent, horizon_s) <= 5 * 1_010_000
