"""Items of a provider with tasks, from claim to picture, with the real provider code and the simulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from daemon.accounts.routes import Route
from daemon.queue.outcomes import Failed, Retry, Succeeded, Throttled, Unknown
from daemon.worker.run import Run
from limiter.limiter import Limiter
from limiter.quota.quota import parse_quota
from providers.base import Provider
from providers.registry import create_provider
from providers.simulator import Simulator, SimulatorSettings
from providers.simulator.faults import Fault, FaultKind
from tests.daemon.worker.test_executor import Bench, due
from tests.providers.conformance import SECRETS, TASKS, Case

SIZE = {"size": "512x512"}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(latency_s=(0.0, 0.0), plain=True)) as running:
        yield running


@pytest.fixture
async def bench(redis: Redis, simulator: Simulator) -> AsyncIterator[Bench]:
    made = Bench(redis)
    quota = parse_quota("q", {"requests": "100/s", "in_flight": 8})
    made.route = Route("default", account(simulator), "Tongyi-MAI/Z-Image-Turbo", (quota,), timeout_s=60)

    async def a_moment(_seconds: float) -> None:
        await asyncio.sleep(0.002)

    made.sleep = a_moment
    yield made
    await made.route.provider.aclose()


def account(simulator: Simulator) -> Provider:
    return create_provider(
        "zimage", base_url=simulator.modelscope_url, secrets={"api_key": "ms-planted-secret"}, options={}
    )


async def test_a_task_becomes_a_stored_picture(bench: Bench, simulator: Simulator) -> None:
    outcome = await bench.outcome(seed=0, **SIZE)
    assert bench.left == bench.written == ["default//a"], "polls and downloads are no calls"
    assert isinstance(outcome, Succeeded)
    (image,) = outcome.result["images"]
    assert (image["width"], image["height"], image["seed"]) == (512, 512, 0)
    receipt = orjson.loads((await bench.installation.record("default//a"))["receipt"])
    assert receipt["task_id"] == outcome.result["provider_task_id"]
    assert simulator.ledger.billed() == 1


@pytest.mark.parametrize("case", TASKS, ids=lambda case: case.name)
@pytest.mark.parametrize(
    ("fault", "pauses"),
    [(FaultKind.RATE_LIMIT, True), (FaultKind.OVERLOADED, False), (FaultKind.BILLING, False)],
)
async def test_a_provider_that_limits_polls_pauses_those_of_the_account_alone(
    bench: Bench, simulator: Simulator, case: Case, fault: FaultKind, pauses: bool
) -> None:
    provider = create_provider(
        case.provider, base_url=simulator.url + case.path, secrets=SECRETS, options=case.options
    )
    quotas = bench.route.quotas
    bench.route = Route("default", provider, case.model, quotas, timeout_s=60)
    simulator.faults.add(Fault(fault, polls=True))
    assert isinstance(await bench.outcome(size="1:1"), Succeeded)
    await provider.aclose()
    calls, polls = await bench.limiter.snapshot([quotas[0], quotas[0].polls])
    refused = bench.installation.metrics.provider_429.labels(provider=provider.name, quota="q.polls")
    assert (calls.cooldown_s > 0, polls.cooldown_generation > 0) == (False, pauses)
    assert refused._value.get() == pauses


async def test_an_expired_address_costs_one_more_poll_and_no_second_task(
    bench: Bench, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(FaultKind.URL_EXPIRED))
    assert isinstance(await bench.outcome(**SIZE), Succeeded)
    assert simulator.ledger.calls_by_prompt() == {"x": 1}


async def test_a_fresh_address_without_a_picture_buys_nothing_again(redis: Redis) -> None:
    settings = SimulatorSettings(latency_s=(0.0, 0.0), plain=True, picture_ttl_s=0.0)
    async with Simulator(settings) as simulator:
        bench = Bench(redis)
        bench.route = Route("default", account(simulator), "Tongyi-MAI/Z-Image-Turbo", (), timeout_s=60)
        outcome = await bench.outcome(**SIZE)
        await bench.route.provider.aclose()
        assert isinstance(outcome, Retry)
        error = outcome.error
        assert (error["kind"], error["charged"], error["resumable"]) == ("result_download", "yes", True)
        assert error["http_status"] == 403
        assert simulator.ledger.billed() == 1


async def test_the_next_owner_of_a_task_polls_it(bench: Bench, simulator: Simulator) -> None:
    run = await bench.claimed(**SIZE)
    simulator.faults.add(Fault(FaultKind.HANG, polls=True))
    died = asyncio.create_task(bench.executor.run(run))
    async with asyncio.timeout(10):
        while not simulator.ledger.polls:
            await asyncio.sleep(0.002)
    died.cancel()
    other = account(simulator)
    bench.route = Route("default", other, "Tongyi-MAI/Z-Image-Turbo", (), timeout_s=60)
    outcome = await bench.executor.run(await bench.taken_over())
    await other.aclose()
    assert isinstance(outcome, Succeeded)
    assert simulator.ledger.calls_by_prompt() == {"x": 1}


async def test_a_call_that_could_not_leave_in_time_is_no_lost_answer(
    bench: Bench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(_run: Run, _rtt_s: float | None) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(bench, "call_leaves", stuck)
    bench.route = replace(bench.route, timeout_s=0.2)
    outcome = await bench.outcome(**SIZE)
    assert isinstance(outcome, Throttled)
    assert (outcome.error["kind"], outcome.error["charged"]) == ("network_unsent", "no")
    assert len(simulator.ledger.calls) == 0


async def test_a_real_call_unanswered_at_the_deadline_has_an_unknown_outcome(
    bench: Bench, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(FaultKind.HANG))
    outcome = await bench.executor.run(due(await bench.claimed(**SIZE), 0.5))
    assert isinstance(outcome, Unknown)
    assert (outcome.error["kind"], outcome.error["charged"]) == ("ambiguous_submit", "maybe")
    assert len(simulator.ledger.calls) == 1


@pytest.mark.parametrize(
    "fault",
    [FaultKind.AUTH, FaultKind.BILLING, FaultKind.RATE_LIMIT, FaultKind.OVERLOADED, FaultKind.EMPTY],
)
async def test_a_task_outlives_every_refusal_of_its_polls(
    bench: Bench, simulator: Simulator, fault: FaultKind
) -> None:
    simulator.faults.add(Fault(fault, polls=True, count=3))
    assert isinstance(await bench.outcome(**SIZE), Succeeded)
    assert simulator.ledger.calls_by_prompt() == {"x": 1}
    (state,) = await Limiter(bench.installation.redis, "pixmill").snapshot(bench.route.quotas)
    assert state.paused_reason is None


@pytest.mark.parametrize(
    ("fault", "outcome", "kind"),
    [
        (FaultKind.DROP, Unknown, "ambiguous_submit"),
        (FaultKind.RATE_LIMIT, Throttled, "rate_limited"),
        (FaultKind.BILLING, Throttled, "quota_exhausted"),
        (FaultKind.MODERATION, Failed, "moderation_input"),
        (FaultKind.TASK_MODERATED, Failed, "moderation_output"),
        (FaultKind.TASK_FAILED, Retry, "provider_fault"),
        (FaultKind.TASK_LOST, Unknown, "task_lost"),
    ],
)
async def test_each_fault_has_its_outcome_and_one_call(
    bench: Bench, simulator: Simulator, fault: FaultKind, outcome: type[Any], kind: str
) -> None:
    simulator.faults.add(Fault(fault))
    became = await bench.outcome(**SIZE)
    assert isinstance(became, outcome)
    assert became.error["kind"] == kind
    assert len(simulator.ledger.calls) == 1
    assert "ms-planted-secret" not in str(became.error)
