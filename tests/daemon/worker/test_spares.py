"""A task is followed by the account that has it, whoever claims its item; a spare is needed while others are down."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from daemon.accounts.routes import Route, Routes
from daemon.queue.messages import Claimed, Serving
from daemon.queue.outcomes import Failed, Held, Released, Succeeded, Throttled
from daemon.worker.run import Run, TimeLimit
from daemon.worker.spares import Account, Watch
from limiter import Limiter
from limiter.quota.quota import parse_quota
from pixmill.contract import Job
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


async def with_task(bench: Bench, receipt: bytes) -> Claimed:
    """An item that is claimed again after a run that left a task."""
    await bench.installation.submit({"id": "j1", "prompt": "x"})
    (item,) = await bench.installation.claim()
    await bench.installation.queue.note_intent(item)
    await bench.installation.queue.note_receipt(item, receipt)
    await bench.installation.queue.settle(item, Released())
    (item,) = await bench.installation.claim()
    return item


async def test_the_receipt_of_a_spare_leads_to_the_spare(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(redis)
    spare: Any = both(bench)["spare"]
    spare.provider.poll_answers = [generated()]
    spare.timeout_s = 7.0
    limits = []
    of = TimeLimit.of

    def noted(run: Run, job: Job) -> TimeLimit:
        limits.append(of(run, job).timeout_s)
        return of(run, job)

    monkeypatch.setattr(TimeLimit, "of", noted)
    item = await with_task(bench, HELD_BY_SPARE)
    outcome = await bench.executor.run(Run(item, bench.route, None, line="default"))
    assert limits == [7.0], "the time limit is that of the spare"
    assert isinstance(outcome, Succeeded)
    assert (outcome.result["route"], outcome.result["instead_of"]) == ("spare", "default")
    assert [task.task_id for task in spare.provider.polls] == ["t1"]
    assert bench.provider.requests == spare.provider.requests == [], "nothing is bought"


async def test_a_task_of_a_route_that_is_not_configured_is_neither_polled_nor_bought_again(
    redis: Redis,
) -> None:
    bench = Bench(redis)
    item = await with_task(bench, HELD_BY_SPARE)
    outcome = await bench.executor.run(Run(item, bench.route, None, line="default"))
    assert isinstance(outcome, Held)
    assert outcome.error["resumable"], "a retry polls the task"
    assert 'route "spare"' in outcome.error["message"]
    assert bench.provider.polls == []
    assert bench.provider.requests == []
    await bench.installation.queue.settle(item, outcome)
    await bench.installation.submit({"job": "j1", "statuses": ["held"]}, type="pixmill.retry.v1")
    (item,) = await bench.installation.claim()
    assert item.receipt == HELD_BY_SPARE


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


async def test_a_picture_that_an_equal_cannot_make_fails(redis: Redis) -> None:
    bench = Bench(redis)
    equal = Route("equal", ScriptedProvider(), "model-1")
    line = Route("default", equal.provider, "model-1", equals=("equal",))
    executor: Any = bench.executor
    executor._routes = Routes([line, equal])
    await bench.installation.submit({"id": "j1", "prompt": "x"})
    (item,) = await bench.installation.claim()
    object.__setattr__(item, "spec", item.spec.replace(b'"x"', b'"x","size":"8192x8192"'))
    assert isinstance(await bench.executor.run(Run(item, equal, None, line="default")), Failed)
    assert "unfit:equal" not in await bench.installation.record(item.uid)


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


async def test_what_waits_aside_returns_after_its_account_has_left_the_configuration(
    redis: Redis, routes: Routes
) -> None:
    here = Installation(redis, routes=("a", "b", "c"))
    own = Account.of_line(routes, "a")[0]
    names = own.serving().accounts
    down = Serving("b", names, ("a",), spare=True, differs=False)
    await here.submit(
        *({"id": name, "prompt": "x", "route": "a", "fallback": name != "j1"} for name in ("j1", "j2"))
    )
    (item,) = (await here.queue.claim("a", 2, serving=down)).items
    await here.queue.note_receipt(item, b'{"task_id":"t2","route":"b","instead_of":"a"}')
    await here.queue.settle(item, Throttled({"kind": "storage", "resumable": True}, 0.0), "yes")
    assert (await here.queue.claim("a", 2, serving=own.serving()._replace(down=("a", "b")))).items == []
    assert sorted([await redis.llen(here.keys.aside("a", name)) for name in ("a", "b")]) == [1, 1]
    await Watch([], Limiter(redis, "pixmill"), here.queue).look()
    assert len((await here.queue.claim("a", 2)).items) == 2


async def test_a_foreign_key_in_place_of_a_list_stops_that_list_alone(redis: Redis) -> None:
    here = Installation(redis, routes=("a", "b"))
    for name in ("a", "b"):
        await here.submit({"id": name, "prompt": "x", "route": name, "fallback": False})
        away = Serving("spare", (name, "spare"), (name,), spare=True, differs=False)
        assert (await here.queue.claim(name, 1, serving=away)).items == []
    await redis.set(here.keys.aside("a", "a"), "somebody's")
    await Watch([], Limiter(redis, "pixmill"), here.queue).look()
    assert len((await here.queue.claim("b", 1)).items) == 1
