"""Reports of providers about accounts: the limiter acts on them, operators get events, and jobs lose nothing."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.accounts.feedback import AccountAction, AccountFeedback
from daemon.accounts.routes import LONGEST_PAUSE_S, TURN_S, Route
from limiter import Grant, Limiter, Permit, Quota, QuotaState, parse_quota
from pixmill.contract.event_data import EVENT_DATA
from providers.errors import ErrorKind, ProviderError
from tests.daemon.harness import Installation

LEARNS = parse_quota("q", {"images": "40/4s", "in_flight": 8, "adaptive": True})


class Office:
    """An account with one quota, and the events about it."""

    def __init__(self, redis: Redis, quota: Quota) -> None:
        self.installation = Installation(redis)
        self.quota = quota
        self.limiter = Limiter(redis, "pixmill")
        self.route = Route("default", self.installation.provider, "model-1", (quota,))
        self.accounts = AccountFeedback(
            redis, self.installation.keys, self.limiter, self.installation.metrics
        )

    async def permit(self, request_id: str = "r") -> Permit:
        answer = await self.limiter.acquire([self.quota], holder="w", request_id=request_id, max_wait_s=5)
        assert isinstance(answer, Grant)
        return answer.permit

    async def refused(self, kind: ErrorKind, permit: Permit, retry_after_s: float | None = None) -> None:
        error = ProviderError(kind, "slow down", http_status=429, retry_after_s=retry_after_s)
        await self.accounts.act(AccountAction.COOL_DOWN, error, self.route, permit)

    async def state(self) -> QuotaState:
        [state] = await self.limiter.snapshot([self.quota])
        return state

    async def reported(self) -> list[tuple[str, dict[str, Any]]]:
        events = await self.installation.events()
        for kind, data in events:
            EVENT_DATA[kind].model_validate(data)  # type: ignore[index] # the key is one of its literals
        return events

    def counted(self, name: str, **labels: str) -> float | None:
        return self.installation.metrics.registry.get_sample_value(f"pixmill_{name}", labels)


@pytest.fixture
def office(redis: Redis) -> Office:
    return Office(redis, LEARNS)


async def test_ten_refusals_of_one_moment_are_one_cooldown_one_cut_and_ten_429s(office: Office) -> None:
    permits = [await office.permit(f"r{number}") for number in range(8)]
    for permit in permits:
        await office.refused(ErrorKind.RATE_LIMITED, permit, 5)
    state = await office.state()
    assert state.cooldown_generation == 1
    assert state.scale < 1
    assert [kind for kind, _ in await office.reported()] == ["quota.cooldown", "quota.adapted"]
    assert office.counted("limiter_cooldowns_total", quota="q") == 1
    assert office.counted("provider_429_total", provider="scripted", quota="q") == 8


async def test_an_adapted_rate_is_reported_with_the_rate_before(office: Office) -> None:
    await office.refused(ErrorKind.RATE_LIMITED, await office.permit(), 1)
    [(_, data)] = [event for event in await office.reported() if event[0] == "quota.adapted"]
    assert data["quota"] == "q"
    assert data["before"] == 1 > data["scale"] == (await office.state()).scale


async def test_a_refusal_of_a_full_window_widens_the_guard_once_and_says_so(redis: Redis) -> None:
    office = Office(redis, parse_quota("q", {"images": "10/s"}))
    permits = [await office.permit(f"r{number}") for number in range(12)]
    for permit in permits[10:]:
        await office.refused(ErrorKind.RATE_LIMITED, permit, 1)
    kinds = [(kind, data.get("guard")) for kind, data in await office.reported()]
    assert kinds == [("quota.cooldown", None), ("quota.adapted", 2)]


async def test_concurrency_lowers_the_places_and_an_overload_only_cools_down(office: Office) -> None:
    permits = [await office.permit(f"r{number}") for number in range(3)]
    await office.refused(ErrorKind.CONCURRENCY_LIMITED, permits[0])
    state = await office.state()
    in_flight = next(unit for unit in state.units if unit.unit == "in_flight")
    assert (state.in_flight + in_flight.available, state.scale, state.cooldown_s) == (3, 1, 0)
    for permit in permits:
        await office.limiter.release(permit)
    await office.refused(ErrorKind.OVERLOADED, await office.permit("late"), 9)
    state = await office.state()
    assert state.scale == 1
    assert state.cooldown_s > 8


async def test_a_concurrency_refusal_concerns_only_the_quota_that_limits_it(redis: Redis) -> None:
    office = Office(redis, LEARNS)
    shared = parse_quota("shared", {"requests": "100/min"})
    office.route = Route("default", office.installation.provider, "model-1", (shared, LEARNS))
    await office.refused(ErrorKind.CONCURRENCY_LIMITED, await office.permit())
    [state] = await office.limiter.snapshot([shared])
    assert (state.cooldown_s, state.cooldown_generation) == (0, 0)


async def test_an_allowance_comes_back_by_itself_and_a_balance_by_an_operator(
    redis: Redis,
) -> None:
    office = Office(redis, parse_quota("q", {"images": {"rate": "9/day", "reset": "UTC"}}))
    error = ProviderError(ErrorKind.QUOTA_EXHAUSTED, "daily limit", http_status=429)
    await office.accounts.act(AccountAction.STOP, error, office.route, None)
    state = await office.state()
    assert state.pause_s is not None
    assert 0 < state.pause_s <= 86_400
    empty = ProviderError(ErrorKind.BILLING_EXHAUSTED, "no credit")
    await office.accounts.act(AccountAction.STOP, empty, office.route, None)
    state = await office.state()
    assert (state.paused_reason, state.pause_s) == ("no credit", None)
    [first, second] = await office.reported()
    assert first[1]["until_us"] % 86_400_000_000 == 0
    assert "until_us" not in second[1]


async def test_headers_tighten_a_quota_that_learns_and_no_other(redis: Redis) -> None:
    headers = {"x-ratelimit-limit-images": "40", "x-ratelimit-remaining-images": "3"}
    for quota, available in ((parse_quota("q", {"images": "40/4s"}), 39), (LEARNS, 3)):
        await redis.flushall()
        office = Office(redis, quota)
        await office.accounts.note_headers(headers, office.route, await office.permit())
        assert (await office.state()).units[0].available == available


@pytest.mark.parametrize("headers", [{}, {"x-ratelimit-remaining-images": "lots"}, {"ratelimit": ";;;"}])
async def test_headers_without_a_rate_change_nothing(office: Office, headers: dict[str, str]) -> None:
    await office.accounts.note_headers(headers, office.route, await office.permit())
    assert (await office.state()).units[0].available == 39


async def test_a_provider_that_cannot_be_reached_is_reported_until_it_is(office: Office) -> None:
    key, labels = (
        office.installation.keys.unreachable("default"),
        {"provider": "scripted", "route": "default"},
    )
    redis: Any = office.installation.redis
    office.route.reach.failed("Nobody is there.")
    await office.accounts.report_reach(office.route, news=True)
    await office.accounts.report_reach(office.route, news=False)
    assert office.counted("provider_unreachable", **labels) == 1
    assert b"Nobody is there." in await redis.get(key)
    assert await redis.ttl(key) > LONGEST_PAUSE_S + TURN_S, (
        "a replica that dies is forgotten, a living one is not"
    )
    office.route.reach.reached()
    await office.accounts.report_reach(office.route, news=True)
    assert office.counted("provider_unreachable", **labels) == 0
    assert await redis.get(key) is None
    assert [kind for kind, _ in await office.reported()] == ["provider.unreachable", "provider.reachable"]
