"""The time left of a batch and its bound; an unknown time is never a number."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from daemon.accounts.routes import Route
from daemon.maintenance.eta import Estimate, Estimator
from daemon.maintenance.scheduler import Scheduler
from daemon.queue import pauses
from daemon.queue.outcomes import Held, Succeeded
from daemon.queue.pauses import Pause
from daemon.telemetry.metrics import Metrics
from limiter import Bound
from limiter.quota.quota import parse_quota
from pixmill.records.counts import GroupCounts
from pixmill.records.records import GroupView, Records
from tests.daemon.harness import Installation, ScriptedProvider

DONE = Succeeded({"images": []})
LOST = Held({"kind": "ambiguous_submit", "message": "Lost."})


def dispatcher_of(route: Route, line: str) -> SimpleNamespace:
    return SimpleNamespace(route=route, line=line, is_needed=True, bound=None, slot_at=None, pause=None)


class Desk:
    """An installation, and an estimator beside a dispatcher that the test controls."""

    def __init__(self, redis: Redis) -> None:
        self.redis: Any = redis
        self.installation = Installation(redis)
        self.keys = self.installation.keys
        quota = parse_quota("q", {"requests": "10/min"})
        route = Route("default", ScriptedProvider(), "m", (quota,))
        self.dispatcher = dispatcher_of(route, "default")
        self.dispatchers: Any = {"default": self.dispatcher}
        self.metrics = Metrics()
        self.estimator = Estimator(redis, self.keys, self.dispatchers, 64, self.metrics)
        self.scheduler = Scheduler(redis, self.installation.queue, self.estimator, self.metrics)

    async def counts(self) -> GroupCounts:
        view = await self.view()
        return view.counts

    async def view(self) -> GroupView:
        view = await Records(self.redis, self.keys).group("default/b1")
        assert view is not None
        return view

    async def estimate(self) -> Estimate:
        return await self.estimator.batch(await self.counts())


@pytest.fixture
def desk(redis: Redis) -> Desk:
    return Desk(redis)


async def test_the_time_left_is_what_the_quota_needs_for_the_rest(desk: Desk) -> None:
    await desk.installation.batch("b1", 30)
    desk.metrics.observe_call("scripted", "default", 4.0)
    estimate = await desk.estimate()
    assert estimate.eta_s == pytest.approx(124, abs=2), "ten at once, ten after each minute, and a call"
    assert estimate.bound is None


async def test_two_accounts_need_half_the_time_and_one_alone_the_whole(desk: Desk) -> None:
    await desk.installation.batch("b1", 40)
    second = Route("second", ScriptedProvider(), "m", (parse_quota("r", {"requests": "10/min"}),))
    desk.dispatchers["default/second"] = other = dispatcher_of(second, "default")
    desk.metrics.observe_call("scripted", "default", 0.0)
    assert (await desk.estimate()).eta_s == pytest.approx(60, abs=2)
    other.route.reach.failed("Nobody is there.")
    alone = await desk.estimate()
    assert alone.eta_s == pytest.approx(180, abs=2)
    assert alone.bound is None


async def test_a_quota_that_is_used_up_adds_the_wait_for_its_next_slot(desk: Desk) -> None:
    await desk.installation.batch("b1", 30)
    before = await desk.estimate()
    desk.dispatcher.bound, desk.dispatcher.slot_at = Bound("q", "requests"), time.monotonic() + 3600
    after = await desk.estimate()
    assert before.eta_s is not None
    assert after.eta_s == pytest.approx(before.eta_s + 3600, abs=5)
    assert after.bound == "quota:q.requests"


async def test_an_account_that_is_paused_gives_no_time(desk: Desk) -> None:
    await desk.installation.batch("b1", 3)
    desk.dispatcher.bound = Bound("q", "paused")
    assert await desk.estimate() == Estimate(None, "quota:q.paused")


async def test_a_pause_without_an_end_gives_no_time_and_one_with_an_end_adds_to_it(desk: Desk) -> None:
    await desk.installation.batch("b1", 3)
    desk.dispatcher.pause = Pause("fleet", "")
    assert await desk.estimate() == Estimate(None, "paused:fleet")
    desk.dispatcher.pause = Pause("route", "default", ends_s=600.0)
    estimate = await desk.estimate()
    assert estimate.eta_s == pytest.approx(600, abs=1)
    assert estimate.bound == "paused:route"


async def test_a_paused_batch_gives_no_time(desk: Desk) -> None:
    await desk.installation.batch("b1", 3)
    await pauses.pause(desk.redis, desk.keys, "batch", "default/b1")
    assert await desk.estimate() == Estimate(None, "paused:batch")


async def test_a_pause_does_not_hold_back_running_items(desk: Desk) -> None:
    await desk.installation.batch("b1", 2)
    desk.metrics.observe_call("scripted", "default", 4.0)
    await desk.installation.claim(2)
    await pauses.pause(desk.redis, desk.keys, "batch", "default/b1")
    desk.dispatcher.pause = Pause("fleet", "")
    assert (await desk.estimate()).eta_s == pytest.approx(4, abs=1)


async def test_items_that_all_wait_for_a_person_give_no_time(desk: Desk) -> None:
    await desk.installation.batch("b1", 2)
    first, second = await desk.installation.claim(2)
    await desk.installation.queue.settle(first, DONE)
    await desk.installation.queue.settle(second, LOST)
    assert await desk.estimate() == Estimate(None, "held")


async def test_a_batch_with_parts_still_to_come_has_no_time_left(desk: Desk) -> None:
    await desk.installation.batch("b1", 1, part=1, parts=2)
    (item,) = await desk.installation.claim()
    await desk.installation.queue.settle(item, DONE)
    assert await desk.estimate() == Estimate(None, "parts")


async def test_no_batch_is_promised_before_its_last_item_may_start(desk: Desk) -> None:
    items = [{"id": "now"}, {"id": "late", "not_before": "2099-01-01T00:00:00Z"}, {"id": "also"}]
    payload = {"id": "b1", "defaults": {"prompt": "x"}, "items": items}
    await desk.installation.submit(payload, type="pixmill.batch.v1")
    estimate = await desk.estimate()
    assert estimate.bound == "not_before"
    assert estimate.eta_s is not None
    assert time.time() + estimate.eta_s == pytest.approx(4_070_908_800, abs=5)


async def test_progress_has_the_time_the_bound_and_counts_that_sum_up(desk: Desk) -> None:
    await desk.installation.batch("b1", 4)
    first, second, _third = await desk.installation.claim(3)
    await desk.installation.queue.settle(first, DONE)
    await desk.installation.queue.settle(second, LOST)
    desk.dispatcher.bound = Bound("q", "requests")
    for counts in await desk.installation.queue.progress(gap_s=0):
        await desk.scheduler._publish(counts)
    ((_, data),) = [event for event in await desk.installation.events() if event[0] == "batch.progress"]
    counts_told = data["counts"]
    assert sum(count for state, count in counts_told.items() if state != "total") == counts_told["total"] == 4
    assert (data["bound"], data["progress"]) == ("quota:q.requests", 0.25)
    progress = await Records(desk.redis, desk.keys).progress(await desk.view())
    assert progress.bound == "quota:q.requests"


async def test_a_batch_reports_its_progress_as_soon_as_it_is_accepted(desk: Desk) -> None:
    await desk.installation.batch("b1", 3)
    assert [counts.gid for counts in await desk.installation.queue.progress(gap_s=0)] == ["default/b1"]


async def test_an_older_report_of_a_time_is_shortened_by_its_age(desk: Desk) -> None:
    await desk.installation.batch("b1", 3)
    now_ms = await desk.installation.queue.now_us() // 1000
    estimate = orjson.dumps({"tenant": "default", "eta_seconds": 600.0, "bound": "quota:q.requests"})
    fields: Any = {"type": "batch.progress", "data": estimate}
    await desk.redis.delete(desk.keys.batch_events("b1"))
    await desk.redis.xadd(desk.keys.batch_events("b1"), fields, id=f"{now_ms - 240_000}-0")
    progress = await Records(desk.redis, desk.keys).progress(await desk.view())
    assert progress.eta_s == pytest.approx(360, abs=5)


async def test_after_a_retry_the_progress_before_the_end_is_not_reported(desk: Desk) -> None:
    await desk.installation.batch("b1", 1)
    desk.dispatcher.bound = Bound("q", "requests")
    for counts in await desk.installation.queue.progress(gap_s=0):
        await desk.scheduler._publish(counts)
    before = await Records(desk.redis, desk.keys).progress(await desk.view())
    assert before.bound == "quota:q.requests"
    await desk.installation.submit({"batch": "b1"}, type="pixmill.cancel.v1")
    await desk.installation.submit({"batch": "b1", "statuses": ["cancelled"]}, type="pixmill.retry.v1")
    progress = await Records(desk.redis, desk.keys).progress(await desk.view())
    assert (progress.eta_s, progress.bound) == (None, None)


async def test_a_pause_makes_every_active_batch_report_its_progress_again(desk: Desk) -> None:
    await desk.installation.batch("b1", 1)
    assert len(await desk.installation.queue.progress(gap_s=0)) == 1
    assert await desk.installation.queue.progress(gap_s=0) == []
    await pauses.pause(desk.redis, desk.keys, "fleet")
    assert [counts.gid for counts in await desk.installation.queue.progress(gap_s=0)] == ["default/b1"]


async def test_while_the_provider_cannot_be_reached_no_end_is_known(desk: Desk) -> None:
    await desk.installation.batch("b1", 3)
    desk.dispatcher.route.reach.failed("Nobody is there.")
    assert await desk.estimate() == Estimate(None, "provider:scripted unreachable")
