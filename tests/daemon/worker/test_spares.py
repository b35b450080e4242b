"""A task is followed by the account that has it, whoever claims its item; a spare is needed while others are down."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from daemon.accounts.routes import Route, Routes
from daemon.queue.outcomes import Released, Succeeded
from daemon.worker.run import Run
from daemon.worker.spares import Account, Watch
from limiter import Limiter
from limiter.quota.quota import parse_quota
from providers.base import Submitted
from tests.daemon.harness import Installation, ScriptedProvider, eventually
from tests.daemon.worker.test_executor import Bench, generated

HELD_BY_SPARE = b'{"task_id":"t1","route":"spare","instead_of":"default"}'


def both(bench: Bench) -> Routes:
    """The routes of the bench, with a spare at another provider."""
    spare = Route("spare", ScriptedProvider(), "model-2")
    routes = Routes([bench.route, spare])
    executor: Any = bench.executor
    executor._routes = routes
    return routes


async def test_the_receipt_of_a_spare_leads_to_the_spare(redis: Redis) -> None:
    bench = Bench(redis)
    spare: Any = both(bench)["spare"]
    spare.provider.poll_answers = [generated()]
    await bench.installation.submit({"id": "j1", "prompt": "x"})
    (item,) = await bench.installation.claim()
    await bench.installation.queue.note_intent(item)
    await bench.installation.queue.note_receipt(item, HELD_BY_SPARE)
    await bench.installation.queue.settle(item, Released())
    (item,) = await bench.installation.claim()
    outcome = await bench.executor.run(Run(item, bench.route, None, line="default"))
    assert isinstance(outcome, Succeeded)
    assert (outcome.result["route"], outcome.result["instead_of"]) == ("spare", "default")
    assert [task.task_id for task in spare.provider.polls] == ["t1"]
    assert bench.provider.requests == spare.provider.requests == [], "nothing is bought"


async def test_a_task_that_a_spare_accepts_names_it_in_its_receipt(redis: Redis) -> None:
    bench = Bench(redis)
    spare: Any = both(bench)["spare"]
    spare.provider.answer = bench._answer
    bench.answers = [Submitted("t9")]
    spare.provider.poll_answers = [generated()]
    await bench.installation.submit({"id": "j1", "prompt": "x"})
    (item,) = await bench.installation.claim()
    await bench.executor.run(Run(item, spare, None, line="default"))
    receipt = orjson.loads((await bench.installation.record(item.uid))["receipt"])
    assert (receipt["task_id"], receipt["route"], receipt["instead_of"]) == ("t9", "spare", "default")
    (submitted,) = [data for kind, data in await bench.installation.events() if kind == "job.submitted"]
    assert submitted["route"] == "spare"


async def test_a_picture_that_the_spare_cannot_make_goes_back_without_a_call(redis: Redis) -> None:
    bench = Bench(redis)
    spare: Any = both(bench)["spare"]
    await bench.installation.submit({"id": "j1", "prompt": "x"})
    (item,) = await bench.installation.claim()
    spare.provider.check = ScriptedProvider().check
    run = Run(item, spare, None, line="default")
    changed = item.spec.replace(b'"x"', b'"x","size":"8192x8192"')
    object.__setattr__(run.item, "spec", changed)
    assert isinstance(await bench.executor.run(run), Released)
    assert spare.provider.requests == []
    assert (await bench.installation.record(item.uid))["unfit:spare"] == "1"


@pytest.fixture
def routes() -> Routes:
    provider = ScriptedProvider()
    quotas = {name: (parse_quota(name, {"in_flight": 1}),) for name in "abc"}
    return Routes(
        [
            Route("a", provider, "m", quotas["a"], spares=("b", "c")),
            Route("b", provider, "m", quotas["b"]),
            Route("c", ScriptedProvider(), "other", quotas["c"]),
            Route("any", provider, "m", equals=("a", "b"), spares=("c",)),
        ]
    )


def needed(accounts: list[Account]) -> list[str]:
    return [account.route.name for account in accounts if account.is_needed]


async def test_a_spare_is_needed_once_all_before_it_are_down(redis: Redis, routes: Routes) -> None:
    accounts, limiter = Account.of_line(routes, "a"), Limiter(redis, "pixmill")
    watch = Watch(accounts, limiter, Installation(redis).queue)
    await watch.look()
    assert needed(accounts) == ["a"]
    await limiter.pause("a", "The key is refused.")
    await watch.look()
    assert needed(accounts) == ["a", "b"]
    routes["b"].reach.failed("no way")
    assert needed(accounts) == ["a", "b", "c"]
    assert accounts[2].serving().down == ["a", "b"]
    assert [account.serving().differs for account in accounts] == [False, False, True]
    await limiter.resume("a")
    await watch.look()
    assert needed(accounts) == ["a"]


async def test_a_pause_that_ends_by_itself_calls_no_spare(redis: Redis, routes: Routes) -> None:
    accounts, limiter = Account.of_line(routes, "a"), Limiter(redis, "pixmill")
    seconds, _ = await redis.time()
    await limiter.pause("a", "It is used up.", (int(seconds) + 600) * 1_000_000)
    await Watch(accounts, limiter, Installation(redis).queue).look()
    assert needed(accounts) == ["a"]


async def test_equals_serve_at_all_times_and_their_spare_while_all_are_down(
    redis: Redis, routes: Routes
) -> None:
    accounts, limiter = Account.of_line(routes, "any"), Limiter(redis, "pixmill")
    watch = Watch(accounts, limiter, Installation(redis).queue)
    await limiter.pause("a", "The key is refused.")
    await watch.look()
    assert needed(accounts) == ["a", "b"]
    assert accounts[0].serving().down == ["a"]
    await limiter.pause("b", "The key is refused.")
    await watch.look()
    assert needed(accounts) == ["a", "b", "c"]
    assert accounts[2].serving().down == ["a", "any", "b"], (
        "an item that must not go over waits for any of them"
    )


async def test_what_waits_aside_returns_when_its_account_serves(redis: Redis, routes: Routes) -> None:
    here = Installation(redis, routes=("a", "b", "c"))
    accounts, limiter = Account.of_line(routes, "a"), Limiter(redis, "pixmill")
    watch = Watch(accounts, limiter, here.queue)
    await limiter.pause("a", "The key is refused.")
    await watch.look()
    await here.submit({"id": "j1", "prompt": "x", "route": "a", "fallback": False})
    spare = accounts[1].serving()
    assert (await here.queue.claim("a", 1, serving=spare)).items == []
    await watch.look()
    assert (await here.queue.claim("a", 1, serving=accounts[0].serving())).items == []
    await limiter.resume("a")
    await watch.look()

    async def claimed() -> bool:
        return bool((await here.queue.claim("a", 1, serving=accounts[0].serving())).items)

    await eventually(claimed)
