"""Polls queue up: the fleet keeps its limit with few requests, and thousands never leave at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.accounts.routes import Route
from daemon.telemetry.metrics import Metrics
from daemon.worker.download import Download
from daemon.worker.polls.durations import Durations
from daemon.worker.polls.pacer import TOGETHER, Turn, Worth
from daemon.worker.polls.polling import Polling
from daemon.worker.run import Run, TimeLimit
from limiter import parse_quota
from pixmill.contract import Job
from pixmill.records.keys import Keys
from providers.base import Generated, Request, Submitted
from providers.registry import create_provider
from providers.simulator import Simulator, SimulatorSettings
from providers.simulator.ledger import max_in_window
from tests.daemon.harness import eventually
from tests.daemon.worker.polls.fleet import Fleet


async def test_the_replicas_of_a_fleet_share_one_limit_on_polls_and_use_it_up(redis: Redis) -> None:
    fleet = Fleet(redis, 3, polls="40/10s", in_flight=1, images="1/h")
    await asyncio.gather(*(fleet.poll(number % 3) for number in range(120)))
    permits = [permit for limiter in fleet.limiters for permit in limiter.granted]
    slots_s = [(permit.slot_us / 1e6, permit.costs["polls"]) for permit in permits]
    assert sum(count for _, count in slots_s) == 120
    assert max_in_window(slots_s, 10) == 40
    for limiter, left_at_us in zip(fleet.limiters, fleet.left_at_us, strict=True):
        slots_us = [permit.slot_us for permit in limiter.granted for _ in range(permit.costs["polls"])]
        assert all(left >= slot for left, slot in zip(left_at_us, slots_us, strict=True))


@pytest.mark.parametrize(
    ("limit", "most"),
    [("1000/10s", TOGETHER), ({"rate": "10/s", "burst": 4}, 4), ({"every": "2s"}, 1)],
)
async def test_one_request_covers_all_polls_that_may_leave_together(
    redis: Redis, limit: object, most: int
) -> None:
    fleet = Fleet(redis, polls=limit)
    await asyncio.gather(*(fleet.poll() for _ in range(60)))
    sizes = fleet.limiters[0].sizes
    assert (sum(sizes), max(sizes), len(sizes)) == (60, most, -(-60 // most))


async def test_one_pass_of_the_loop_sends_no_more_polls_than_allowed(redis: Redis) -> None:
    fleet = Fleet(redis)
    turn, left = 0, Counter[int]()

    async def polls() -> None:
        await fleet.poll()
        left[turn] += 1

    everybody = asyncio.gather(*(polls() for _ in range(200)))
    while not everybody.done():
        turn += 1
        await asyncio.sleep(0)
    await everybody
    assert sum(left.values()) == 200
    assert max(left.values()) <= TOGETHER
    assert fleet.limiters[0].requested == [], "without a limit on polls, no request is made"


async def test_polls_whose_reply_was_lost_are_requested_again_and_charged_once(redis: Redis) -> None:
    fleet = Fleet(redis, polls="10/10s")
    fleet.limiters[0].failing = 2
    await asyncio.gather(*(fleet.poll() for _ in range(4)))
    assert len(fleet.limiters[0].requested) == 3
    assert len(set(fleet.limiters[0].requested)) == 1, "one request, so one charge"
    assert await fleet.free() == 6
    assert fleet.metrics.limiter_errors._value.get() == 2


async def test_where_polls_are_scarce_those_of_the_most_worth_leave_first(redis: Redis) -> None:
    fleet, left = Fleet(redis, polls="2/10s"), []

    async def poll(number: int) -> None:
        await fleet.poll(worth=lambda: worths[number])
        left.append(number)

    worths = [0.0, 1.0, 5.0, 5.0, 2.0, 7.0]
    first, late = (asyncio.gather(*(poll(number) for number in numbers)) for numbers in (range(5), [5]))
    await asyncio.gather(first, late)
    assert left == [5, 2, 3, 4, 1, 0], "the worth as it is when a poll leaves; of equals, the first"


async def test_a_long_line_is_weighed_in_parts_and_none_is_forgotten(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.worker.polls.pacer.WEIGHED", 3)
    fleet, weighed = Fleet(redis, polls={"every": "1s"}), Counter[int]()
    left: list[int] = []
    worths = [0.0] * 12

    def worth(number: int) -> float:
        weighed[len(left)] += 1
        return worths[number]

    async def poll(number: int) -> None:
        await fleet.poll(worth=lambda: worth(number))
        left.append(number)
        worths[7] = 1.0

    await asyncio.gather(*(poll(number) for number in range(12)))
    assert left == [0, 1, 7, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    assert weighed.pop(0) == 12 + 3, "each when it arrives"
    assert max(weighed.values()) == 3


async def test_polls_that_leave_late_count_from_then_and_hold_back_those_behind(redis: Redis) -> None:
    fleet = Fleet(redis, polls="100/1s")  # counted anew from 5 ms on
    behind = [asyncio.create_task(fleet.pacers[0].turn(fleet.route)) for _ in range(TOGETHER + 5)]
    gone = [await turn for turn in behind[:TOGETHER]]
    for turn in gone[1:]:
        turn.left()
    await asyncio.sleep(0)
    assert not any(turn.done() for turn in behind[TOGETHER:]), "one has not left"
    fleet.clock.now_us += 100_000
    gone[0].left()
    await asyncio.gather(*behind)
    assert fleet.limiters[0].late == fleet.limiters[0].granted[:1]


async def test_a_reply_that_is_read_late_makes_its_polls_late(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(redis, polls="1000/10s")  # counted anew from 50 ms on
    acquire = fleet.limiters[0].acquire

    async def slowly(*args: Any, **more: Any) -> Any:
        answer = await acquire(*args, **more)
        fleet.clock.now_us += 200_000
        return answer

    monkeypatch.setattr(fleet.limiters[0], "acquire", slowly)
    await fleet.poll()

    async def counted_anew() -> bool:
        return fleet.limiters[0].late == fleet.limiters[0].granted

    await eventually(counted_anew)


async def test_a_poll_that_never_leaves_does_not_hold_the_others_for_ever(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.worker.polls.pacer.LEAVES_IN_S", 0.01)
    fleet = Fleet(redis, polls="10/10s")
    await fleet.pacers[0].turn(fleet.route)
    async with asyncio.timeout(5):
        await fleet.poll()


async def test_a_poll_counts_as_left_when_its_request_leaves(redis: Redis) -> None:
    noted: list[str] = []

    async def turn(_route: Route, _worth: Worth) -> Any:
        return Turn(lambda: noted.append("left"), {})

    async def ignored(*_: object) -> None:
        pass

    settings = SimulatorSettings(latency_s=(0.0, 0.0), plain=True)
    async with Simulator(settings) as simulator:
        provider = create_provider(
            "zimage", base_url=simulator.modelscope_url, secrets={"api_key": "ms-key"}, options={}
        )
        real = provider._progress  # type: ignore[attr-defined]

        def answered(answer: Any) -> Any:
            noted.append("answered")
            return real(answer)

        provider._progress = answered  # type: ignore[attr-defined]
        request = Request(request_id="r", model="Tongyi-MAI/Z-Image-Turbo", prompt="x", size="512x512")
        submitted = await provider.submit(request, timeout_s=5)
        assert isinstance(submitted, Submitted)
        assert noted == [], "a submit is no poll"
        route = Route("default", provider, request.model)
        durations = Durations(redis, Keys("pixmill"), Metrics())
        polling = Polling(turn, ignored, durations, lambda *_: True, sleep=lambda _seconds: asyncio.sleep(0))
        limit = TimeLimit(30, None, asyncio.get_running_loop().time() + 30)
        item: Any = SimpleNamespace(uid="default//a", accepted_us=0)
        run = Run(item, route, None)
        await polling.ended(
            run,
            Job.model_validate({"id": "a", "prompt": "x"}),
            submitted,
            limit,
            accepted_at=polling.clock(),
            is_over=lambda: asyncio.sleep(0),
        )
        noted_of_polls = list(noted)
        generated = await provider.poll(submitted)
        assert isinstance(generated, Generated)
        await Download(polling).fetch(run, generated, limit)
        await provider.aclose()
    assert noted_of_polls[:2] == ["left", "answered"]
    assert noted[len(noted_of_polls) :] == ["answered"], "a fetch is no poll, and counts as none"


async def test_a_paused_account_lets_its_running_tasks_be_polled(redis: Redis) -> None:
    fleet = Fleet(redis, requests="1/h", polls="10/10s")
    await fleet.limiters[0].pause("q", "the invoice is disputed")
    async with asyncio.timeout(5):
        await fleet.poll()


async def test_replaced_limits_hold_at_once_and_nothing_stays_reserved_under_the_former(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, log = Fleet(redis, polls="2/h"), "pixmill:limiter:q:log:polls"
    await asyncio.gather(fleet.poll(), fleet.poll())
    start_us = fleet.clock.now_us
    reserved: list[int] = []

    async def nap(seconds: float) -> None:
        if len(fleet.limiters[0].requested) == 3:
            reserved.append(await redis.zcard(log))
            fleet.route.quotas = (parse_quota("q", {"polls": "1000/10s"}),)
            cancelled.cancel()
        await fleet.clock.sleep(seconds)

    monkeypatch.setattr(fleet.naps[0], "nap", nap)
    poll, cancelled = (asyncio.create_task(fleet.poll()) for _ in range(2))
    await asyncio.wait_for(poll, 5)
    assert fleet.clock.now_us - start_us <= 3_000_000
    assert reserved == [4]
    assert await redis.zcard(log) == 3


async def test_a_request_that_fails_fails_the_polls_that_wait_for_it(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(redis, polls="10/10s")

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(fleet.limiters[0], "acquire", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(fleet.poll(), 5)
