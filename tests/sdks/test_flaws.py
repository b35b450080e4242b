"""Flaws that clients of these APIs are known to have, each as a claim which a client with that flaw breaks.

Every claim is tried on a small client that has the flaw, on the library in which it was found where that speaks a
wire of ours, and on our own way: the real executor over the real provider. A claim that is broken says how, and who
has the flaw must break it in that very way: any other failure is one of the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as HttpRoute

from daemon.queue.outcomes import Failed, Outcome, Retry, Succeeded, Throttled, Unknown
from daemon.worker.run import Run
from providers.base import Provider
from providers.http.asgi import AsgiServer
from providers.hunyuan.provider import create as create_hunyuan
from providers.registry import create_provider
from providers.simulator import Simulator
from providers.simulator.faults import Fault, FaultKind
from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY
from tests.daemon.worker.test_executor import Bench
from tests.sdks.conftest import KEY
from tests.sdks.worker import Sdk

FIELDS = {"model": "sim-1", "prompt": "x", "size": "64x64"}

Client = Callable[[], Awaitable[Any]]


class Ours:
    """Items of the daemon, run against a provider that talks to the simulator."""

    def __init__(self, redis: Redis, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.bench = Bench(redis)
        self.outcomes: list[Outcome] = []

    def openai(self, simulator: Simulator) -> Provider:
        base_url, secrets = simulator.base_url, {"api_key": KEY}
        return self._kept(create_provider("openai", base_url=base_url, secrets=secrets, options={}))

    def hunyuan(self, simulator: Simulator) -> Provider:
        secrets = {"secret_id": TC3_SECRET_ID, "secret_key": TC3_SECRET_KEY}
        return self._kept(create_hunyuan(base_url=simulator.url, secrets=secrets, options={}))

    def zimage(self, base_url: str) -> Provider:
        return self._kept(create_provider("zimage", base_url=base_url, secrets={"api_key": KEY}, options={}))

    def running(
        self, provider: Provider, *, size: str = "64x64", timeout_s: float = 10, runs: int = 1
    ) -> Client:
        """A client that runs one item, up to `runs` times while the daemon would run it again."""

        async def client() -> None:
            await self.bench.installation.submit({"id": "a", "prompt": "x", "size": size})
            for _ in range(runs):
                (item,) = await self.bench.installation.claim()
                route = replace(self.bench.route, provider=provider, timeout_s=timeout_s)
                outcome = await self.bench.executor.run(Run(item, route, None))
                self.outcomes.append(outcome)
                if not isinstance(outcome, (Throttled, Retry)):
                    return
                await self.bench.installation.queue.settle(item, replace(outcome, delay_s=0.0))
                await self.bench.installation.queue.due()

        return client

    def _kept(self, provider: Provider) -> Provider:
        self._stack.push_async_callback(provider.aclose)
        return provider


@pytest.fixture
def ours(redis: Redis, stack: AsyncExitStack) -> Ours:
    return Ours(redis, stack)


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as client:
        yield client


# --- 1. A spent balance is asked again and again (openai's SDK)


async def a_spent_balance_is_tried_once(client: Client, simulator: Simulator) -> None:
    simulator.faults.add(Fault(FaultKind.BILLING, count=9))
    await client()
    asked = len(simulator.ledger.calls)
    assert asked == 1, f"a spent balance was tried {asked} times"


async def test_a_client_that_reads_every_429_as_a_throttle_tries_again(
    simulator: Simulator, http: httpx2.AsyncClient
) -> None:
    async def flawed() -> None:
        for _ in range(3):
            if (await _generate(http, simulator)).status_code != 429:
                return

    with pytest.raises(AssertionError, match="a spent balance was tried 3 times"):
        await a_spent_balance_is_tried_once(flawed, simulator)


async def test_openais_sdk_tries_a_spent_balance_again(openai: Sdk, simulator: Simulator) -> None:
    with pytest.raises(AssertionError, match="a spent balance was tried 3 times"):
        await a_spent_balance_is_tried_once(lambda: _by_sdk(openai, simulator, max_retries=2), simulator)


async def test_we_try_a_spent_balance_once(ours: Ours, redis: Redis, simulator: Simulator) -> None:
    ours.bench = Bench(redis, quota={"in_flight": 2})
    await a_spent_balance_is_tried_once(ours.running(ours.openai(simulator)), simulator)
    assert isinstance(ours.outcomes[0], Throttled), "the job waits with the account, unharmed"
    (state,) = await ours.bench.limiter.snapshot(ours.bench.route.quotas)
    assert state.paused_reason, "no permit is given before somebody has looked"


# --- 2. A job is submitted again after it was accepted (Tencent's StandardRetryer)


async def one_throttle_ends_in_one_job(client: Client, simulator: Simulator) -> None:
    simulator.faults.add(Fault(FaultKind.RATE_LIMIT))
    await client()
    accepted = sum(call.admitted for call in simulator.ledger.calls)
    assert accepted == 1, f"one job was accepted {accepted} times"


async def test_a_client_that_keeps_an_old_error_submits_an_accepted_job_again(
    simulator: Simulator, http: httpx2.AsyncClient
) -> None:
    async def flawed() -> None:
        error = None
        for _ in range(3):
            answer = await _generate(http, simulator)
            if answer.status_code == 429:
                error = answer
            if error is None:  # which is still the one before
                return

    with pytest.raises(AssertionError, match="one job was accepted 2 times"):
        await one_throttle_ends_in_one_job(flawed, simulator)


async def test_tencents_retryer_submits_an_accepted_job_again(tencent: Sdk, simulator: Simulator) -> None:
    account = {"secret_id": TC3_SECRET_ID, "secret_key": TC3_SECRET_KEY, "attempts": 3}
    given = {"endpoint": f"127.0.0.1:{simulator.port}", "fields": {"Prompt": "x"}, **account}

    async def flawed() -> None:
        await tencent.call(op="typed", action="SubmitTextToImageJob", **given)

    with pytest.raises(AssertionError, match="one job was accepted 2 times"):
        await one_throttle_ends_in_one_job(flawed, simulator)


async def test_we_submit_a_throttled_job_until_it_is_accepted_and_no_more(
    ours: Ours, simulator: Simulator
) -> None:
    client = ours.running(ours.hunyuan(simulator), size="512x512", runs=3)
    await one_throttle_ends_in_one_job(client, simulator)
    assert [type(outcome) for outcome in ours.outcomes] == [Throttled, Succeeded]


# --- 3. A call whose answer is lost is sent again (fal-client)


async def a_lost_answer_buys_one_picture(client: Client, simulator: Simulator, kind: FaultKind) -> None:
    simulator.faults.add(Fault(kind))
    await client()
    billed = simulator.ledger.billed()
    assert billed == 1, f"one picture was billed {billed} times"


LOST = pytest.mark.parametrize(
    "kind", [FaultKind.HANG, FaultKind.DROP, FaultKind.TRUNCATE, FaultKind.BAD_GATEWAY]
)


@LOST
async def test_a_client_that_repeats_a_call_without_an_answer_pays_twice(
    simulator: Simulator, http: httpx2.AsyncClient, kind: FaultKind
) -> None:
    async def flawed() -> None:
        for _ in range(3):
            try:
                answer = await _generate(http, simulator, timeout_s=0.2)
            except httpx2.TransportError:
                continue
            if answer.status_code < 500:
                return

    with pytest.raises(AssertionError, match=r"one picture was billed [23] times"):
        await a_lost_answer_buys_one_picture(flawed, simulator, kind)


@LOST
async def test_openais_sdk_pays_twice_for_a_lost_answer(
    openai: Sdk, simulator: Simulator, kind: FaultKind
) -> None:
    def client() -> Awaitable[Any]:
        return _by_sdk(openai, simulator, max_retries=2, timeout_s=0.3)

    with pytest.raises(AssertionError, match=r"one picture was billed [23] times"):
        await a_lost_answer_buys_one_picture(client, simulator, kind)


@LOST
async def test_we_hold_a_call_without_an_answer(ours: Ours, simulator: Simulator, kind: FaultKind) -> None:
    client = ours.running(ours.openai(simulator), timeout_s=0.3, runs=3)
    await a_lost_answer_buys_one_picture(client, simulator, kind)
    assert [type(outcome) for outcome in ours.outcomes] == [Unknown]


# --- 4. An answer without a picture passes for one (litellm)


async def no_picture_is_an_error(client: Client, simulator: Simulator) -> None:
    """The client returns pictures, or says that there are none by raising or by an outcome that is no success."""
    simulator.faults.add(Fault(FaultKind.EMPTY, count=9))
    assert await client() is not True, "no picture passed for one"


async def test_a_client_that_trusts_a_status_of_200_takes_nothing_for_a_picture(
    simulator: Simulator, http: httpx2.AsyncClient
) -> None:
    async def flawed() -> bool:
        return (await _generate(http, simulator)).status_code == 200

    with pytest.raises(AssertionError, match="no picture passed for one"):
        await no_picture_is_an_error(flawed, simulator)


async def test_litellm_takes_nothing_for_a_picture(litellm: Sdk, simulator: Simulator) -> None:
    async def flawed() -> bool:
        given = {"base_url": simulator.base_url, "api_key": KEY}
        return bool((await litellm.call(**given, fields={**FIELDS, "model": "openai/sim-1"}))["ok"])

    with pytest.raises(AssertionError, match="no picture passed for one"):
        await no_picture_is_an_error(flawed, simulator)


async def test_we_say_that_there_is_no_picture(ours: Ours, simulator: Simulator) -> None:
    run = ours.running(ours.openai(simulator))

    async def client() -> bool:
        await run()
        return isinstance(ours.outcomes[0], Succeeded)

    await no_picture_is_an_error(client, simulator)
    (outcome,) = ours.outcomes
    assert isinstance(outcome, (Retry, Failed))
    assert outcome.error["kind"] == "no_image"


# --- 5. A task that ends with an unknown word is waited for without end (replicate's client and "aborted")


async def an_unknown_ending_is_not_waited_for_without_end(client: Client) -> None:
    waiting = asyncio.ensure_future(client())
    done, _ = await asyncio.wait({waiting}, timeout=3)
    if not done:
        waiting.cancel()
        await asyncio.wait({waiting})
    assert done, "an unknown ending was still waited for after 3 s"
    await waiting


@asynccontextmanager
async def aborted_tasks() -> AsyncIterator[str]:
    """ModelScope's wire, but every task ends with a word that no documentation has."""

    async def submitted(_: HttpRequest) -> Response:
        return JSONResponse({"task_status": "SUCCEED", "task_id": "t1", "request_id": "r"})

    async def standing(_: HttpRequest) -> Response:
        return JSONResponse({"task_id": "t1", "task_status": "ABORTED", "request_id": "r"})

    routes = [
        HttpRoute("/v1/images/generations", submitted, methods=["POST"]),
        HttpRoute("/v1/tasks/t1", standing, methods=["GET"]),
    ]
    server = AsgiServer(Starlette(routes=routes))
    await server.start()
    try:
        yield server.url
    finally:
        await server.stop()


async def test_a_client_that_waits_for_the_words_it_knows_waits_for_ever(http: httpx2.AsyncClient) -> None:
    async with aborted_tasks() as url:

        async def flawed() -> None:
            while True:
                standing = (await http.get(f"{url}/v1/tasks/t1")).json()
                if standing["task_status"] in ("SUCCEED", "FAILED"):
                    return
                await asyncio.sleep(0.05)

        with pytest.raises(AssertionError, match="was still waited for"):
            await an_unknown_ending_is_not_waited_for_without_end(flawed)


async def test_we_give_an_unknown_ending_up_when_the_routes_time_is_over(ours: Ours) -> None:
    async def soon(_: float) -> None:
        await asyncio.sleep(0.01)

    ours.bench.sleep = soon
    async with aborted_tasks() as url:
        client = ours.running(ours.zimage(url), size="512x512", timeout_s=0.3)
        await an_unknown_ending_is_not_waited_for_without_end(client)
    (outcome,) = ours.outcomes
    assert isinstance(outcome, Failed)
    assert outcome.error["kind"] == "provider_timeout"


async def _generate(http: httpx2.AsyncClient, simulator: Simulator, timeout_s: float = 5) -> httpx2.Response:
    return await http.post(f"{simulator.base_url}/images/generations", json=FIELDS, timeout=timeout_s)


async def _by_sdk(sdk: Sdk, simulator: Simulator, **more: Any) -> dict[str, Any]:
    return await sdk.call(base_url=simulator.base_url, api_key=KEY, fields=FIELDS, **more)
