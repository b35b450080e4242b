"""The fleet learns how long tasks take, and polls the next ones by it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from daemon.accounts.routes import Route
from daemon.queue.outcomes import Cancelled, Failed, Succeeded, Unknown
from daemon.telemetry.metrics import Metrics
from daemon.worker.polls.durations import FRESH_S, Durations
from daemon.worker.polls.rhythm import FEWEST, KEPT, PollRule, Seen
from pixmill.contract import Job
from pixmill.records.keys import Keys
from providers.base import Pending, Submitted
from providers.errors import ErrorKind, ProviderError
from tests.daemon.harness import ScriptedProvider
from tests.daemon.worker.test_executor import Bench, generated, with_old_task

TEN_S = Seen(9.9, 10.1)


def job(**fields: Any) -> Job:
    return Job.model_validate({"id": "a", "prompt": "x", **fields})


class Fleet:
    """Two replicas that learn together."""

    def __init__(self, redis: Redis) -> None:
        self.keys = Keys("pixmill")
        self.route = Route("default", ScriptedProvider(), "model-1")
        self.now_s = 1000.0
        self.one, self.other = (
            Durations(redis, self.keys, Metrics(), clock=lambda: self.now_s) for _ in range(2)
        )

    async def learn(self, *ends: Seen, **fields: Any) -> None:
        for end in ends:
            self.now_s += FRESH_S
            await self.one.learn(self.route, job(**fields), end)


@pytest.fixture
def fleet(redis: Redis) -> Fleet:
    return Fleet(redis)


async def test_a_replica_reads_a_list_once_a_second_for_all_its_tasks(
    fleet: Fleet, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.learn(*[TEN_S] * FEWEST)
    reads, lrange = [], redis.lrange

    async def counted(key: str, *args: int) -> Any:
        reads.append(key)
        return await lrange(key, *args)

    monkeypatch.setattr(redis, "lrange", counted)
    await asyncio.gather(*(fleet.other.read(fleet.route, job()) for _ in range(50)))
    assert len(reads) == 1
    assert not is_as_if_unknown(fleet.other.rule(fleet.route, job())()), "all wait for the one reading"
    fleet.now_s += FRESH_S
    await fleet.other.read(fleet.route, job())
    assert len(reads) == 2


async def test_ends_within_a_second_are_all_learned_and_read_once(fleet: Fleet, redis: Redis) -> None:
    for _ in range(FEWEST):
        await fleet.one.learn(fleet.route, job(), TEN_S)
    assert is_as_if_unknown(await rule_of(fleet.one, fleet.route, job())), "read at the first end"
    (key,) = await redis.keys("pixmill:durations:*")
    assert await redis.llen(key) == FEWEST
    fleet.now_s += FRESH_S
    assert not is_as_if_unknown(await rule_of(fleet.one, fleet.route, job()))


async def test_ends_of_one_moment_are_read_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, lrange = [], Pipeline.lrange

    def counted(pipe: Any, key: str, *args: int) -> Any:
        reads.append(key)
        return lrange(pipe, key, *args)

    monkeypatch.setattr(Pipeline, "lrange", counted)
    await asyncio.gather(*(fleet.one.learn(fleet.route, job(), TEN_S) for _ in range(50)))
    assert len(reads) == 1


async def test_a_reading_that_fails_fails_for_all_that_wait_for_it(
    fleet: Fleet, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    async def times_out(key: str, *_: int) -> Any:
        reads.append(key)
        await asyncio.sleep(0)
        fleet.now_s += 5 * FRESH_S
        raise RedisTimeoutError("away")

    monkeypatch.setattr(redis, "lrange", times_out)
    await asyncio.gather(*(fleet.one.read(fleet.route, job()) for _ in range(40)))
    assert len(reads) == 1
    fleet.now_s += FRESH_S
    await fleet.one.read(fleet.route, job())
    assert len(reads) == 2, "a second later the next task tries again"


async def rule_of(durations: Durations, route: Route, job: Job) -> PollRule:
    await durations.read(route, job)
    return durations.rule(route, job)()


def is_as_if_unknown(rule: PollRule) -> bool:
    return rule.next_s(0) == PollRule().next_s(0)


async def test_what_one_replica_learns_plans_the_polls_of_another(fleet: Fleet) -> None:
    await fleet.learn(*[TEN_S] * FEWEST)
    rule = await rule_of(fleet.other, fleet.route, job())
    assert rule.next_s(0) == pytest.approx(10, rel=0.1)


async def test_routes_models_and_sizes_are_learned_apart(fleet: Fleet) -> None:
    await fleet.learn(*[TEN_S] * FEWEST, size="512x512")
    assert not is_as_if_unknown(await rule_of(fleet.one, fleet.route, job(size="500x512")))
    assert is_as_if_unknown(await rule_of(fleet.one, fleet.route, job(size="1024x1024")))
    assert is_as_if_unknown(await rule_of(fleet.one, fleet.route, job(size="16:9")))
    assert is_as_if_unknown(await rule_of(fleet.one, fleet.route, job()))
    assert is_as_if_unknown(await rule_of(fleet.one, replace_route(fleet, name="other"), job(size="512x512")))
    assert is_as_if_unknown(
        await rule_of(fleet.one, replace_route(fleet, model="other"), job(size="512x512"))
    )


def replace_route(fleet: Fleet, **fields: Any) -> Route:
    return replace(fleet.route, **fields)


async def test_only_the_newest_durations_are_kept(fleet: Fleet, redis: Redis) -> None:
    await fleet.learn(*[TEN_S] * (KEPT + 5))
    (key,) = await redis.keys("pixmill:durations:*")
    assert await redis.llen(key) == KEPT
    assert await redis.ttl(key) > 0


@pytest.mark.parametrize("absurd", [Seen(0, -5), Seen(7, 6), Seen(0, float("nan")), Seen(1, 1e9)])
async def test_an_absurd_duration_is_not_learned(fleet: Fleet, redis: Redis, absurd: Seen) -> None:
    await fleet.learn(absurd)
    assert await redis.keys("pixmill:durations:*") == []


async def test_an_end_that_is_known_only_vaguely_is_not_learned(fleet: Fleet, redis: Redis) -> None:
    await fleet.learn(Seen(3.9, 34))
    assert await redis.keys("pixmill:durations:*") == []


async def test_a_task_that_runs_is_planned_by_what_was_learned_meanwhile(fleet: Fleet) -> None:
    rule = fleet.one.rule(fleet.route, job())()
    await fleet.learn(*[TEN_S] * FEWEST)
    assert is_as_if_unknown(rule)
    assert not is_as_if_unknown(fleet.one.rule(fleet.route, job())())


async def test_a_row_that_nobody_can_read_is_left_out(fleet: Fleet, redis: Redis) -> None:
    await fleet.learn(*[TEN_S] * FEWEST)
    (key,) = await redis.keys("pixmill:durations:*")
    await redis.lpush(key, "what", "1 2 3", "-1 nan")
    assert not is_as_if_unknown(await rule_of(fleet.one, fleet.route, job()))


async def test_without_redis_tasks_are_polled_as_if_nothing_were_known(
    fleet: Fleet, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.learn(*[TEN_S] * FEWEST)

    async def away(*_: Any, **__: Any) -> None:
        raise RedisConnectionError("away")

    monkeypatch.setattr(redis, "execute_command", away)
    monkeypatch.setattr(type(redis.pipeline()), "execute", away)
    await fleet.learn(TEN_S)
    assert is_as_if_unknown(await rule_of(fleet.other, fleet.route, job()))
    assert not is_as_if_unknown(await rule_of(fleet.one, fleet.route, job())), "what was read before"


@pytest.fixture
def bench(redis: Redis) -> Bench:
    return Bench(redis)


async def test_a_task_is_polled_when_the_others_have_ended(bench: Bench) -> None:
    for _ in range(FEWEST):
        await bench.durations.learn(bench.route, job(), TEN_S)
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    assert bench.slept == [pytest.approx(10, rel=0.1)]


async def test_nobody_waits_so_a_task_is_polled_less_often(bench: Bench) -> None:
    for duration_s in range(5, 25):
        await bench.durations.learn(bench.route, job(), Seen(duration_s, duration_s + 0.5))
    polls = {}
    for bench.awaited in (True, False):
        bench.answers, bench.slept = [Submitted("task-1")], []
        bench.provider.poll_answers = [*[Pending("RUNNING")] * 3, generated()]
        run = await bench.claimed(id=f"awaited-{bench.awaited}")
        assert isinstance(await bench.executor.run(run), Succeeded)
        polls[bench.awaited] = bench.slept
    assert all(often < easy for often, easy in zip(polls[True], polls[False], strict=True))


REFUSED = ProviderError(ErrorKind.MODERATION_OUTPUT, "Not this.")


@pytest.mark.parametrize(("answer", "outcome"), [(generated(), Succeeded), (REFUSED, Failed)])
async def test_an_end_lies_between_two_polls_also_of_a_task_that_failed(
    bench: Bench, redis: Redis, answer: Any, outcome: type
) -> None:
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [Pending("RUNNING"), Pending("RUNNING"), answer]
    assert isinstance(await bench.outcome(), outcome)
    (key,) = await redis.keys("pixmill:durations:*")
    assert await redis.lrange(key, 0, -1) == [b"0.600 0.700"]


async def test_a_refused_poll_is_no_news_of_the_task(bench: Bench, redis: Redis) -> None:
    refused = ProviderError(ErrorKind.POLL_ERROR, "busy")
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [*[Pending("RUNNING")] * 20, refused, generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    (key,) = await redis.keys("pixmill:durations:*")
    (row,) = await redis.lrange(key, 0, -1)
    low_s, high_s = map(float, row.split())
    assert high_s - low_s == pytest.approx(sum(bench.slept[-2:]), abs=0.01)


async def test_a_task_whose_polls_are_refused_does_not_keep_the_top_of_the_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    worths: list[float] = []
    poll = bench.provider.poll

    async def weighed(*args: Any, **more: Any) -> Any:
        try:
            return await poll(*args, **more)
        finally:
            worths.append(bench.worth())

    monkeypatch.setattr(bench.provider, "poll", weighed)
    refused = ProviderError(ErrorKind.POLL_ERROR, "busy")
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [Pending("RUNNING"), *[refused] * 4, generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    assert worths == [0] * 6, "a task that was polled this moment goes last"


async def test_after_a_refusal_that_has_passed_the_task_is_polled_as_before(bench: Bench) -> None:
    refused = ProviderError(ErrorKind.POLL_ERROR, "busy")
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [Pending("RUNNING"), refused, Pending("RUNNING"), generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    assert bench.slept == [0.5, 0.1, 2.0, pytest.approx(0.08 * 2.6, abs=0.01)]


async def test_a_provider_that_does_not_say_when_polls_leave_is_not_polled_in_a_loop(bench: Bench) -> None:
    bench.provider.says_when_polls_leave = False
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [*[Pending("RUNNING")] * 40, generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    assert bench.slept[-1] > 0.5


@pytest.mark.parametrize("age", [None, timedelta(hours=12), timedelta(hours=-1)])
async def test_a_task_of_an_earlier_run_is_polled_by_the_plan_whatever_its_age_seems(
    bench: Bench, age: timedelta | None
) -> None:
    for _ in range(FEWEST):
        await bench.durations.learn(bench.route, job(), Seen(59, 61))
    run = await with_old_task(bench, age)
    bench.provider.poll_answers = [*[Pending("RUNNING")] * 4, generated()]
    assert isinstance(await bench.executor.run(run), Succeeded)
    assert all(wait_s <= 10 for wait_s in bench.slept)


async def test_a_task_that_is_lost_teaches_nothing(bench: Bench, redis: Redis) -> None:
    gone = ProviderError(ErrorKind.TASK_LOST, "no such task", http_status=404)
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [gone, gone, gone]
    assert isinstance(await bench.outcome(), Unknown)
    assert await redis.keys("pixmill:durations:*") == []


async def test_a_cancelled_task_teaches_nothing(bench: Bench, redis: Redis) -> None:
    run = await bench.claimed()
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [Pending("RUNNING")] * 2

    async def cancelled(_seconds: float) -> None:
        if len(bench.slept) == 2:
            run.cancel_requested.set()

    bench.sleep = cancelled
    assert isinstance(await bench.executor.run(run), Cancelled)
    assert await redis.keys("pixmill:durations:*") == []


async def test_a_task_of_an_earlier_run_teaches_nothing(bench: Bench, redis: Redis) -> None:
    run = await bench.claimed()
    await bench.installation.queue.note_intent(run.item)
    await bench.installation.queue.note_receipt(run.item, b'{"task_id":"task-1"}')
    bench.provider.poll_answers = [generated()]
    assert isinstance(await bench.executor.run(await bench.taken_over()), Succeeded)
    assert await redis.keys("pixmill:durations:*") == []
