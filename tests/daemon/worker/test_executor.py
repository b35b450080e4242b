"""The steps of one item: the notes before and after each step, and the resumption of a run that was taken over."""

from __future__ import annotations

import asyncio
import errno
import io
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import orjson
import pytest
from obstore.store import MemoryStore
from PIL import Image
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from daemon.accounts.feedback import AccountFeedback
from daemon.accounts.routes import Route
from daemon.queue.bell import Bell
from daemon.queue.messages import LeaseLost
from daemon.queue.outcomes import Cancelled, Failed, Outcome, Released, Retry, Succeeded, Throttled, Unknown
from daemon.storage.imaging import in_format
from daemon.storage.keeper import PictureKeeper
from daemon.storage.object_store import ResultStore, StorageError, Stored
from daemon.worker.download import ONLY_ADDRESS_TRIES, Download
from daemon.worker.executor import Executor
from daemon.worker.inputs import InputFetcher
from daemon.worker.polls.durations import Durations
from daemon.worker.polls.pacer import Turn
from daemon.worker.polls.polling import Polling
from daemon.worker.retry_policy import RetryPolicy
from daemon.worker.run import Recalled, Run
from limiter import Limiter, Penalty, Permit, Places, Recalls
from limiter.quota.quota import parse_quota
from pixmill.contract import Job
from providers.base import CallHooks, Generated, Pending, Picture, PollPlan, Request, Submitted
from providers.errors import ErrorKind, ProviderError, Scope
from providers.errors import Retry as MayRetry
from providers.http.room import take_room
from tests.daemon.harness import Installation, eventually, open_gate


def png(width: int = 8, height: int = 8, kind: str = "PNG") -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(target, kind)
    return target.getvalue()


def generated(data: bytes | None = None) -> Generated:
    return Generated(
        (Picture(data=data or png(), seed=7),),
        revised_prompt="a nicer x",
        cost=Decimal("0.04"),
        currency="USD",
    )


class Bench:
    """An executor with real neighbours and a fake provider, which records the order of events."""

    def __init__(self, redis: Redis, quota: dict[str, object] | None = None) -> None:
        self.installation = Installation(redis)
        self.provider = self.installation.provider
        self.provider.answer = self._answer
        self.store = ResultStore.open("memory://")
        self.limiter = Limiter(redis, "pixmill")
        self.begun: list[str] = []
        self.left: list[str] = []
        self.written: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.ended: list[str] = []
        self.accepted: list[str] = []
        self.slept: list[float] = []
        self.now = 0.0  # what was slept, in seconds
        self.awaited = True
        self.worth: Callable[[], float] = lambda: 0.0  # of the newest poll
        self.draw = 0.5  # the middle: waits are as planned
        self.sleep: Callable[[float], Awaitable[None]] | None = None
        quotas = () if quota is None else (parse_quota("q", quota),)
        self.route = Route("default", self.provider, "model-1", quotas, timeout_s=60)
        metrics = self.installation.metrics
        keys = self.installation.keys
        self.gate = open_gate(
            self.store, Bell(redis, keys.bell, Recalls(), Places(self.limiter)), self._sleep
        )
        calls: Any = self
        self.durations = Durations(redis, keys, metrics, clock=count().__next__)
        accounts = AccountFeedback(redis, keys, self.limiter, metrics)
        polling = Polling(
            self._turn,
            accounts.polls_refused,
            self.durations,
            lambda _run, _job: self.awaited,
            sleep=self._sleep,
            clock=lambda: self.now,
            draw=lambda: self.draw,
        )
        self.executor = Executor(
            self.installation.queue,
            PictureKeeper(self.store, self.gate, metrics, self.installation.queue.now_us),
            InputFetcher(self.store, max_bytes=1_000_000, allow_hosts=()),
            polling,
            Download(polling, sleep=self._sleep),
            RetryPolicy(accounts, metrics),
            calls,
            metrics,
            self.installation.routes,
        )
        self.answers: list[Submitted | Generated | ProviderError] = []

    async def _answer(self, request: Request) -> Submitted | Generated:
        answer = self.answers.pop(0) if self.answers else generated()
        if isinstance(answer, ProviderError):
            raise answer
        return answer

    async def note_intent(self, run: Run) -> bytes:
        return await self.installation.queue.note_intent(run.item)

    async def slot_nears(self, run: Run) -> None:
        """Every slot is now."""

    async def call_begins(self, run: Run) -> None:
        self.begun.append(run.item.uid)

    async def call_leaves(self, run: Run, rtt_s: float | None) -> None:
        self.left.append(run.item.uid)

    def call_sent(self, run: Run) -> None:
        self.written.append(run.item.uid)

    async def call_answered(self, run: Run, _permit: Permit | None) -> None:
        headers, run.headers = run.headers, {}
        if headers:
            self.headers.append(headers)

    async def call_accepted(self, run: Run) -> None:
        self.accepted.append(run.item.uid)

    async def call_ended(self, run: Run, *, answered: bool = True) -> None:
        self.ended.append(run.item.uid)

    async def _turn(self, _route: Route, worth: Callable[[], float]) -> Turn:
        self.worth = worth
        return Turn(lambda: None, {})

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 3))
        self.now += seconds
        if self.sleep is not None:
            await self.sleep(seconds)

    async def claimed(self, **fields: Any) -> Run:
        await self.installation.submit({"id": "a", "prompt": "x", **fields})
        (item,) = await self.installation.claim()
        return Run(item, self.route, None)

    async def taken_over(self) -> Run:
        """The item as another replica gets it after the death of this one."""
        page = await self.installation.queue.reclaim("default", "normal", lease_s=0, cursor="0-0")
        (item,) = page.items
        return Run(item, self.route, None, adopted=True)

    def cost(self) -> float:
        """The cost of calls in the metrics, in USD."""
        labels = {"provider": "scripted", "currency": "USD"}
        return self.installation.metrics.registry.get_sample_value("pixmill_cost_total", labels) or 0.0

    async def outcome(self, **fields: Any) -> Outcome:
        return await self.executor.run(await self.claimed(**fields))


@pytest.fixture
def bench(redis: Redis) -> Bench:
    return Bench(redis)


async def test_a_picture_is_stored_under_its_own_key_with_all_its_facts(bench: Bench) -> None:
    outcome = await bench.outcome()
    assert isinstance(outcome, Succeeded)
    (image,) = outcome.result["images"]
    assert image["key"].startswith("default/20")
    assert image["key"].endswith("/single/a.png")
    assert (image["width"], image["height"], image["content_type"], image["seed"]) == (8, 8, "image/png", 7)
    assert await bench.store.get(image["key"]) == png()
    assert image["thumb_url"].endswith("/single/a~thumb.webp")
    assert outcome.result["attempts"] == 1
    assert outcome.result["revised_prompt"] == "a nicer x"
    assert outcome.result["cost"] == {"amount": "0.04", "currency": "USD"}
    assert bench.ended == ["default//a"]
    assert bench.accepted == []


async def test_a_picture_is_stored_in_the_jobs_format_not_the_providers(
    bench: Bench,
) -> None:
    outcome = await bench.outcome(output={"format": "webp", "thumbnail": False})
    assert isinstance(outcome, Succeeded)
    (image,) = outcome.result["images"]
    assert image["content_type"] == "image/webp"
    assert image["key"].endswith(".webp")
    assert image["thumb_url"] is None


@pytest.mark.parametrize(("kind", "ending"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
async def test_without_a_wished_format_a_picture_is_kept_as_delivered(
    bench: Bench, kind: str, ending: str
) -> None:
    bench.answers = [generated(png(kind=kind))]
    outcome = await bench.outcome()
    assert isinstance(outcome, Succeeded)
    (image,) = outcome.result["images"]
    assert image["key"].endswith(f"/single/a.{ending}")
    assert image["content_type"] == f"image/{kind.lower()}"
    assert await bench.store.get(image["key"]) == png(kind=kind)
    found = await bench.executor.run(await bench.taken_over())
    assert isinstance(found, Succeeded), "a picture under any ending is found and not bought again"
    assert found.result["images"][0]["key"] == image["key"]
    assert len(bench.provider.requests) == 1


async def test_a_paid_picture_waits_while_this_machine_lacks_descriptors(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lacks = in_format, 3

    def starved(*given: Any, **named: Any) -> Any:
        nonlocal lacks
        lacks -= 1
        if lacks >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*given, **named)

    monkeypatch.setattr("daemon.storage.keeper.in_format", starved)
    closed: list[str | None] = []

    async def look(_seconds: float) -> None:
        closed.append(bench.gate.why)

    bench.sleep = look
    assert isinstance(await bench.outcome(), Succeeded)
    assert closed == ["this process has no file descriptor left"] * 3, "nothing more is bought meanwhile"
    assert len(bench.provider.requests) == 1


async def test_a_lack_of_this_machine_ends_no_download(bench: Bench) -> None:
    bench.answers = [Generated((Picture(url="https://x/1"),))]
    failures = 3 * ONLY_ADDRESS_TRIES

    async def starved(picture: Picture) -> bytes:
        nonlocal failures
        failures -= 1
        if failures < 0:
            return png()
        raise ProviderError(ErrorKind.RESULT_DOWNLOAD, "The download failed.") from OSError(errno.EMFILE, "x")

    bench.provider.fetch = starved  # type: ignore[method-assign]  # the machine fails, not the provider
    assert isinstance(await bench.outcome(), Succeeded)


async def test_the_intent_is_written_before_the_call_and_the_receipt_right_after_it(bench: Bench) -> None:
    seen: list[tuple[bool, bool]] = []

    async def look(request: Request) -> Submitted:
        record = await bench.installation.record("default//a")
        seen.append(("intent_us" in record, "receipt" in record))
        return Submitted("task-1")

    bench.provider.answer = look
    bench.provider.poll_answers = [Pending("RUNNING"), generated()]
    outcome = await bench.outcome()
    assert isinstance(outcome, Succeeded)
    assert seen == [(True, False)]
    receipt = orjson.loads((await bench.installation.record("default//a"))["receipt"])
    assert set(receipt) == {"task_id", "submitted_at"}
    assert receipt["task_id"] == "task-1"
    assert outcome.result["provider_task_id"] == "task-1"


async def test_the_cost_of_a_call_is_recorded_and_counted(bench: Bench) -> None:
    bench.answers = [replace(generated(), cost=Decimal("0.0000001"))]
    outcome = await bench.outcome()
    assert isinstance(outcome, Succeeded)
    assert outcome.result["cost"] == {"amount": "0.0000001", "currency": "USD"}
    assert bench.cost() == pytest.approx(0.0000001)


async def test_a_failed_call_that_was_billed_is_counted_too(bench: Bench) -> None:
    error = ProviderError(ErrorKind.NO_IMAGE, "Only words came.")
    bench.answers = [error.billed(Decimal("0.0387"), "USD")]
    outcome = await bench.outcome()
    assert isinstance(outcome, Retry)
    assert (outcome.error["charged"], outcome.error["cost"]["amount"]) == ("yes", "0.0387")
    assert bench.cost() == pytest.approx(0.0387)


async def test_the_cost_of_an_unusable_picture_is_counted(bench: Bench) -> None:
    bench.answers = [generated(b"no picture")]
    assert not isinstance(await bench.outcome(), Succeeded)
    assert bench.cost() == pytest.approx(0.04)


async def test_the_cost_of_a_task_with_two_owners_is_counted_once(bench: Bench) -> None:
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [replace(generated(), pictures=(Picture(data=b"no picture"),)), generated()]
    first = await bench.claimed()
    await bench.executor.run(first)
    assert bench.cost() == 0
    assert isinstance(await bench.executor.run(await bench.taken_over()), Succeeded)
    assert bench.cost() == pytest.approx(0.04)


async def test_after_a_refused_poll_the_waits_are_those_of_the_provider(bench: Bench) -> None:
    bench.answers = [Submitted("task-1")]
    lost = ProviderError(ErrorKind.POLL_ERROR, "no answer")
    bench.provider.poll_answers = [
        Pending("QUEUED"),
        lost,
        Pending("RUNNING"),
        lost,
        Pending("RUNNING"),
        generated(),
    ]
    assert isinstance(await bench.outcome(), Succeeded)
    assert bench.slept == [0.5, 0.1, 2.0, 0.208, 3.0, 0.465]
    assert len(bench.provider.requests) == 1
    assert bench.accepted == ["default//a"]


GONE = ProviderError(ErrorKind.TASK_LOST, "no such task", http_status=404)
NO_NEWS = ProviderError(ErrorKind.POLL_ERROR, "no answer")


@pytest.mark.parametrize("between", [Pending("RUNNING"), NO_NEWS])
async def test_a_task_that_is_only_once_or_twice_unknown_is_not_bought_again(
    bench: Bench, between: Pending | ProviderError
) -> None:
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [GONE, GONE, between, GONE, GONE, generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    assert len(bench.provider.requests) == 1
    assert bench.slept[:3] == [0.5, 2.0, 3.0]


REFUSED_POLLS = [
    ErrorKind.RATE_LIMITED,
    ErrorKind.CONCURRENCY_LIMITED,
    ErrorKind.OVERLOADED,
    ErrorKind.AUTH,
    ErrorKind.PERMISSION,
    ErrorKind.BILLING_EXHAUSTED,
    ErrorKind.QUOTA_EXHAUSTED,
    ErrorKind.NETWORK_UNSENT,
    ErrorKind.AMBIGUOUS_SUBMIT,
]


@pytest.mark.parametrize("kind", REFUSED_POLLS)
async def test_a_refused_poll_does_not_fail_the_task(bench: Bench, kind: ErrorKind) -> None:
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [*[ProviderError(kind, "not you")] * 4, generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    assert len(bench.provider.requests) == 1


@pytest.mark.parametrize("kind", REFUSED_POLLS)
async def test_an_error_of_the_accepted_task_itself_ends_its_run(bench: Bench, kind: ErrorKind) -> None:
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [ProviderError(kind, "not this one").of_accepted_call()]
    outcome = await bench.outcome()
    assert isinstance(outcome, Retry | Unknown | Failed)
    assert (outcome.error["kind"], outcome.error["charged"]) == (kind.value, "maybe")


async def test_a_task_whose_polls_are_all_refused_names_the_refusal(bench: Bench) -> None:
    bench.route = replace(bench.route, timeout_s=0)
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [ProviderError(ErrorKind.AUTH, "This key has been revoked.")]
    run = await bench.claimed()
    run.item = replace(run.item, receipt=b'{"task_id":"task-1"}')
    outcome = await bench.executor.run(run)
    assert isinstance(outcome, Failed)
    assert outcome.error["resumable"] is True
    assert outcome.error["message"].endswith("The last poll was refused: This key has been revoked.")


async def test_a_task_that_this_machine_cannot_poll_waits_for_free(bench: Bench) -> None:
    bench.route = replace(bench.route, timeout_s=0)
    unsent = ProviderError(ErrorKind.NETWORK_UNSENT, "No connection.")
    unsent.__cause__ = OSError(errno.EMFILE, "Too many open files")
    bench.provider.poll_answers = [unsent]
    run = await bench.claimed()
    run.item = replace(run.item, receipt=b'{"task_id":"task-1"}')
    outcome = await bench.executor.run(run)
    assert isinstance(outcome, Throttled)
    assert outcome.error["resumable"] is True
    assert bench.provider.requests == []


async def test_a_task_that_is_unknown_three_times_in_a_row_is_lost(bench: Bench) -> None:
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [Pending("RUNNING"), GONE, GONE, GONE]
    outcome = await bench.outcome()
    assert isinstance(outcome, Unknown)
    assert outcome.error["kind"] == "task_lost"
    assert bench.provider.poll_answers == []


async def test_a_provider_has_its_own_rhythm_of_polls(bench: Bench) -> None:
    bench.provider.plan = PollPlan(first_s=0.5, growth=2.0, longest_s=3.0)
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [*[NO_NEWS] * 4, generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    assert bench.slept == [0.5, 0.5, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(("draw", "waits"), [(0.0, [0.5, 1.8]), (1.0, [0.5, 2.2])])
async def test_refused_polls_are_spread_so_that_they_do_not_stay_in_step(
    bench: Bench, draw: float, waits: list[float]
) -> None:
    bench.draw = draw
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [NO_NEWS, generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    assert bench.slept == pytest.approx(waits)


async def test_a_task_is_not_polled_before_the_providers_retry_after(bench: Bench) -> None:
    bench.answers = [Submitted("task-1")]
    busy = ProviderError(ErrorKind.POLL_ERROR, "slow down", http_status=429, retry_after_s=7.0)
    bench.provider.poll_answers = [
        busy,
        Pending("RUNNING", retry_after_s=5.0),
        Pending("RUNNING"),
        generated(),
    ]
    assert isinstance(await bench.outcome(), Succeeded)
    assert bench.slept == [0.5, 7.0, 5.0, pytest.approx(1.0, abs=0.01)]


async def test_a_longer_retry_after_of_a_poll_is_cut_to_a_minute(bench: Bench) -> None:
    bench.route = Route("default", bench.provider, "model-1", (), timeout_s=3600)
    bench.answers = [Submitted("task-1")]
    busy = ProviderError(ErrorKind.POLL_ERROR, "slow down", http_status=429, retry_after_s=900.0)
    bench.provider.poll_answers = [busy, Pending("RUNNING", retry_after_s=3600.0), generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    assert bench.slept == [0.5, 60.0, 60.0]


@pytest.mark.parametrize("draw", [0.0, 0.25, 1.0])
async def test_an_adopted_task_is_polled_soon_but_not_in_step_with_others(bench: Bench, draw: float) -> None:
    bench.draw = draw
    run = await bench.claimed()
    await bench.installation.queue.note_intent(run.item)
    await bench.installation.queue.note_receipt(run.item, b'{"task_id":"task-1"}')
    bench.provider.poll_answers = [generated()]
    assert isinstance(await bench.executor.run(await bench.taken_over()), Succeeded)
    assert bench.slept == [pytest.approx(draw * 2.0 * (0.9 + 0.2 * draw), abs=0.001)]


def behind(url: str) -> Generated:
    return Generated((Picture(url=url, seed=7),))


async def with_old_task(bench: Bench, age: timedelta | None) -> Run:
    """An item with a task of that age (None: unknown), as its new owner gets it."""
    run = await bench.claimed()
    at = None if age is None else datetime.now(UTC) - age
    receipt = orjson.dumps(Submitted("task-1", submitted_at=at).to_dict())
    await bench.installation.queue.note_intent(run.item)
    await bench.installation.queue.note_receipt(run.item, receipt)
    return await bench.taken_over()


async def test_a_picture_that_is_not_at_its_address_yet_is_waited_for(bench: Bench) -> None:
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [behind("https://x/new")]

    async def it_comes(_seconds: float) -> None:
        if len(bench.provider.fetched) == 3:
            bench.provider.behind = {"https://x/new": png()}

    bench.sleep = it_comes
    assert isinstance(await bench.outcome(), Succeeded)
    assert bench.provider.fetched == ["https://x/new"] * 4
    first, *waits = bench.slept
    assert first == 0.5
    assert waits == sorted(waits)
    assert 0.5 <= waits[0] <= 1.0, "a fresh address is given time"


async def test_an_address_without_a_picture_is_replaced_by_a_poll_not_bought_again(
    bench: Bench,
) -> None:
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [behind("https://x/old"), behind("https://x/new")]
    bench.provider.behind = {"https://x/new": png(16, 16)}
    outcome = await bench.outcome()
    assert isinstance(outcome, Succeeded)
    assert outcome.result["images"][0]["width"] == 16
    assert [poll.task_id for poll in bench.provider.polls] == ["task-1", "task-1"]
    assert bench.slept[-1] == 0.0, "the task has ended, so nothing is waited for"
    assert len(bench.provider.requests) == 1


@pytest.mark.parametrize(
    ("age", "url_ttl_s"),
    [(timedelta(hours=2), None), (timedelta(minutes=2), 60.0)],
    ids=["by-default", "by-provider"],
)
async def test_an_address_older_than_addresses_live_is_replaced_at_once(
    bench: Bench, age: timedelta, url_ttl_s: float | None
) -> None:
    bench.provider.url_ttl_s = url_ttl_s
    run = await with_old_task(bench, age)
    bench.provider.poll_answers = [behind("https://x/old"), behind("https://x/new")]
    bench.provider.behind = {"https://x/new": png()}
    assert isinstance(await bench.executor.run(run), Succeeded)
    assert bench.provider.fetched == ["https://x/old", "https://x/new"]


async def test_an_old_picture_that_is_gone_is_bought_again_only_by_the_jobs_policy(
    bench: Bench,
) -> None:
    run = await with_old_task(bench, timedelta(hours=2))
    bench.provider.poll_answers = [behind("https://x/old"), behind("https://x/older")]
    outcome = await bench.executor.run(run)
    assert isinstance(outcome, Unknown)
    assert (outcome.error["kind"], outcome.error["charged"]) == ("result_expired", "yes")
    assert len(bench.provider.polls) == 2


@pytest.mark.parametrize(("accepted_s_ago", "kind"), [(60, "result_download"), (7200, "result_expired")])
async def test_a_receipt_without_a_date_is_no_older_than_its_item(
    bench: Bench, accepted_s_ago: int, kind: str
) -> None:
    run = await with_old_task(bench, None)
    accepted_us = round((datetime.now(UTC).timestamp() - accepted_s_ago) * 1e6)
    run = replace(run, item=replace(run.item, accepted_us=accepted_us))
    bench.provider.poll_answers = [behind("https://x/old"), behind("https://x/older")]
    outcome = await bench.executor.run(run)
    assert isinstance(outcome, Retry | Unknown)
    assert outcome.error["kind"] == kind


async def test_a_young_picture_that_stays_away_is_downloaded_later_not_bought(
    bench: Bench,
) -> None:
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [behind("https://x/1"), behind("https://x/2")]
    run = await bench.claimed()
    outcome = await bench.executor.run(run)
    assert isinstance(outcome, Retry)
    assert (outcome.error["kind"], outcome.error["charged"]) == ("result_download", "yes")
    await bench.installation.queue.settle(run.item, replace(outcome, delay_s=0))

    bench.provider.poll_answers = [behind("https://x/3")]
    bench.provider.behind = {"https://x/3": png()}
    (item,) = await bench.installation.claim()
    assert isinstance(await bench.executor.run(Run(item, bench.route, None)), Succeeded)
    assert len(bench.provider.requests) == 1


async def test_a_picture_that_never_comes_leaves_its_task_for_a_person(bench: Bench) -> None:
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [behind("https://x/1"), behind("https://x/2")]
    run = await bench.claimed()
    outcome = await bench.executor.run(replace(run, item=replace(run.item, attempts=5)))
    assert isinstance(outcome, Failed)
    assert outcome.error["resumable"] is True


async def test_a_task_that_is_gone_at_a_new_address_means_an_expired_picture(
    bench: Bench,
) -> None:
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [
        behind("https://x/old"),
        ProviderError(ErrorKind.POLL_ERROR, "no answer"),
        *[ProviderError(ErrorKind.TASK_LOST, "no such task", http_status=404)] * 3,
    ]
    outcome = await bench.outcome()
    assert isinstance(outcome, Unknown)
    assert (outcome.error["kind"], outcome.error["charged"]) == ("result_expired", "yes")


async def test_an_address_that_we_refuse_keeps_its_task_for_a_retry(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = ProviderError(
        ErrorKind.RESULT_DOWNLOAD,
        "The picture was made, but 10.0.0.7 is not a public address.",
        retry=MayRetry.NEVER,
    )
    tried: list[Picture] = []

    async def fetch(picture: Picture) -> bytes:
        tried.append(picture)
        raise refused

    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [behind("https://10.0.0.7/x")]
    run = await bench.claimed()
    with monkeypatch.context() as patched:
        patched.setattr(bench.provider, "fetch", fetch)
        outcome = await bench.executor.run(run)
    assert isinstance(outcome, Failed)
    assert outcome.error["resumable"] is True
    assert len(tried) == 1
    await bench.installation.queue.settle(run.item, outcome)

    await bench.installation.submit({"job": "a"}, type="pixmill.retry.v1")
    bench.provider.poll_answers = [behind("https://10.0.0.7/x")]
    bench.provider.behind = {"https://10.0.0.7/x": png()}
    (item,) = await bench.installation.claim()
    assert isinstance(await bench.executor.run(Run(item, bench.route, None)), Succeeded)
    assert len(bench.provider.requests) == 1


async def test_a_lost_picture_without_a_task_is_not_bought_again(
    bench: Bench,
) -> None:
    bench.answers = [behind("https://x/new")]
    outcome = await bench.outcome()
    assert isinstance(outcome, Failed)
    assert (outcome.error["kind"], outcome.error["charged"]) == ("result_download", "yes")
    assert "resumable" not in outcome.error
    assert len(bench.provider.fetched) == ONLY_ADDRESS_TRIES, (
        "the address is all that is left of the paid picture"
    )
    assert bench.provider.polls == []


@pytest.mark.parametrize("kind", ["rate_limited", "auth", "quota_exhausted", "overloaded", "provider_fault"])
async def test_a_download_that_is_refused_buys_no_second_picture(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async def fetch(_picture: Picture) -> bytes:
        raise ProviderError(ErrorKind(kind), "Slow down.", http_status=429)

    monkeypatch.setattr(bench.provider, "fetch", fetch)
    bench.answers = [behind("https://x/new")]
    outcome = await bench.outcome()
    assert isinstance(outcome, Failed)
    assert (outcome.error["kind"], outcome.error["charged"]) == ("result_download", "yes")
    assert not {"quota.cooldown", "quota.paused"} & set(await bench.installation.kinds())


async def test_a_cancel_after_the_end_of_the_task_throws_no_paid_picture_away(bench: Bench) -> None:
    run = await bench.claimed()
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [behind("https://x/old"), behind("https://x/new")]
    bench.provider.behind = {"https://x/new": png()}

    async def cancelled_meanwhile(seconds: float) -> None:
        if seconds == 0.0:
            run.cancel_requested.set()

    bench.sleep = cancelled_meanwhile
    assert isinstance(await bench.executor.run(run), Succeeded)
    assert bench.provider.cancelled == []


async def test_a_missing_new_address_leaves_the_task_for_a_retry(bench: Bench) -> None:
    bench.route = Route("default", bench.provider, "model-1", (), timeout_s=0.05)
    bench.answers = [Submitted("task-1")]
    lost = ProviderError(ErrorKind.POLL_ERROR, "no answer")
    bench.provider.poll_answers = [behind("https://x/old"), *[lost] * 10_000]

    async def a_moment(_seconds: float) -> None:
        await asyncio.sleep(0.001)

    bench.sleep = a_moment
    outcome = await bench.outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error["resumable"] is True


async def test_a_run_that_was_taken_over_with_a_receipt_polls_and_never_submits(bench: Bench) -> None:
    run = await bench.claimed()
    await bench.installation.queue.note_intent(run.item)
    await bench.installation.queue.note_receipt(run.item, b'{"task_id":"task-1"}')
    bench.provider.poll_answers = [generated()]
    outcome = await bench.executor.run(await bench.taken_over())
    assert isinstance(outcome, Succeeded)
    assert bench.provider.requests == []
    assert [poll.task_id for poll in bench.provider.polls] == ["task-1"]


async def test_a_run_that_was_taken_over_before_its_intent_is_released(bench: Bench) -> None:
    await bench.claimed()
    assert await bench.executor.run(await bench.taken_over()) == Released()
    assert bench.provider.requests == []


async def test_a_run_that_was_taken_over_after_its_intent_has_an_unknown_outcome(bench: Bench) -> None:
    run = await bench.claimed()
    await bench.installation.queue.note_intent(run.item)
    outcome = await bench.executor.run(await bench.taken_over())
    assert isinstance(outcome, Unknown)
    assert outcome.error["charged"] == "maybe"
    assert bench.provider.requests == []


async def test_a_picture_that_was_stored_and_not_settled_is_found_not_bought(bench: Bench) -> None:
    first = await bench.executor.run(await bench.claimed())
    assert isinstance(first, Succeeded)
    second = await bench.executor.run(await bench.taken_over())
    assert isinstance(second, Succeeded)
    assert second.result["images"][0]["sha256"] == first.result["images"][0]["sha256"]
    assert len(bench.provider.requests) == 1


async def test_nothing_is_sent_by_a_worker_that_lost_the_item(bench: Bench) -> None:
    zombie = await bench.claimed()
    await bench.taken_over()
    with pytest.raises(LeaseLost):
        await bench.executor.run(zombie)
    assert bench.provider.requests == []


class Sleeper:
    """A replica that sleeps through its lease during a call."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.wake = asyncio.Event()
        self.asleep = asyncio.Event()

    async def answer(self, request: Request) -> Submitted | Generated:
        if len(self.bench.provider.requests) > 1:
            return await self.bench._answer(request)
        self.asleep.set()
        await self.wake.wait()
        return Submitted("task-late")

    async def falls_asleep(self) -> asyncio.Task[Outcome]:
        self.bench.provider.answer = self.answer
        run = asyncio.create_task(self.bench.executor.run(await self.bench.claimed()))
        await self.asleep.wait()
        return run

    async def wakes(self, run: asyncio.Task[Outcome]) -> None:
        self.wake.set()
        with pytest.raises(LeaseLost):
            await run

    async def sent_once_more(self) -> Run:
        """The item as its new owner gets it, after the unknown outcome of the sleeper's call."""
        orphan = await self.bench.taken_over()
        await self.bench.installation.queue.settle(orphan.item, await self.bench.executor.run(orphan))
        (item,) = await self.bench.installation.claim()
        return Run(item, self.bench.route, None)

    def late_letters(self) -> float:
        labels = {"reason": "late_receipt"}
        registry = self.bench.installation.metrics.registry
        return registry.get_sample_value("pixmill_dead_letters_total", labels) or 0.0


async def test_a_worker_that_slept_through_its_lease_leaves_its_receipt(
    bench: Bench,
) -> None:
    sleeper = Sleeper(bench)
    run = await sleeper.falls_asleep()
    new = await sleeper.sent_once_more()
    await sleeper.wakes(run)
    bench.provider.poll_answers = [generated()]
    outcome = await bench.executor.run(new)
    assert isinstance(outcome, Succeeded)
    assert outcome.result["provider_task_id"] == "task-late"
    assert [poll.task_id for poll in bench.provider.polls] == ["task-late"]
    assert len(bench.provider.requests) == 1
    assert bench.begun == ["default//a"], "the new owner began no call"
    assert not new.sent, "its permit is given back whole"
    assert bench.accepted == [], "the place of its task belongs to the replica that polls it"
    assert sleeper.late_letters() == 0


async def test_a_late_receipt_without_a_use_is_a_dead_letter_and_counted(bench: Bench) -> None:
    sleeper = Sleeper(bench)
    run = await sleeper.falls_asleep()
    new = await sleeper.sent_once_more()
    outcome = await bench.executor.run(new)
    await bench.installation.queue.settle(new.item, outcome)
    await sleeper.wakes(run)
    assert len(bench.provider.requests) == 2
    (letter,) = await bench.installation.dead()
    assert letter["reason"] == "late_receipt"
    assert sleeper.late_letters() == 1
    assert bench.accepted == ["default//a"], "no run polls its task, which still occupies the account"


async def test_a_late_receipt_beside_a_second_task_is_counted_by_its_owner(bench: Bench) -> None:
    sleeper = Sleeper(bench)
    run = await sleeper.falls_asleep()
    new = await sleeper.sent_once_more()

    async def meanwhile(_request: Request) -> Submitted:
        await sleeper.wakes(run)
        return Submitted("task-2")

    bench.provider.answer = meanwhile
    bench.provider.poll_answers = [generated()]
    outcome = await bench.executor.run(new)
    assert isinstance(outcome, Succeeded)
    assert outcome.result["provider_task_id"] == "task-2"
    assert sleeper.late_letters() == 1


async def test_a_cancel_before_the_call_costs_nothing(bench: Bench) -> None:
    run = await bench.claimed()
    run.cancel_requested.set()
    assert await bench.executor.run(run) == Cancelled()
    assert bench.provider.requests == []


async def test_a_cancel_while_a_task_runs_is_passed_on_to_the_provider(bench: Bench) -> None:
    run = await bench.claimed()
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [Pending("RUNNING")]

    async def cancelled_meanwhile(seconds: float) -> None:
        run.cancel_requested.set()

    bench.sleep = cancelled_meanwhile
    assert await bench.executor.run(run) == Cancelled()
    assert [task.task_id for task in bench.provider.cancelled] == ["task-1"]


async def test_a_moderated_prompt_fails_alone_with_the_providers_sentence(bench: Bench) -> None:
    bench.answers = [
        ProviderError(ErrorKind.MODERATION_INPUT, "Rejected by the safety system.", http_status=400)
    ]
    outcome = await bench.outcome()
    assert isinstance(outcome, Failed)
    assert (outcome.error["kind"], outcome.error["charged"]) == ("moderation_input", "no")


async def test_a_fault_is_tried_again_later_and_longer_each_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda _low, high: high)
    bench.answers = [ProviderError(ErrorKind.PROVIDER_FAULT, "500")]
    outcome = await bench.outcome()
    assert isinstance(outcome, Retry)
    assert outcome.delay_s == 2.0


async def test_a_429_pauses_the_quota_for_every_replica_and_the_job_stays_unharmed(redis: Redis) -> None:
    bench = Bench(redis, {"images": "100/s"})
    bench.answers = [ProviderError(ErrorKind.RATE_LIMITED, "slow down", http_status=429, retry_after_s=7.0)]
    outcome = await bench.outcome()
    assert isinstance(outcome, Throttled)
    assert outcome.delay_s == 0.0, "the permit carries the wait"
    (state,) = await Limiter(redis, "pixmill").snapshot(bench.route.quotas)
    assert 6.5 < state.cooldown_s <= 7.0
    assert "quota.cooldown" in await bench.installation.kinds()


@pytest.mark.parametrize("cost", [None, Decimal(0), Decimal("0.04")])
async def test_a_throttle_inside_an_accepted_call_costs_an_attempt(
    redis: Redis, cost: Decimal | None
) -> None:
    """Otherwise a provider that bills and then refuses would be paid without end."""
    bench = Bench(redis, quota={"requests": "100/s"})
    throttle = ProviderError(ErrorKind.RATE_LIMITED, "slow down", http_status=200, retry_after_s=4.0)
    bench.answers = [throttle.of_accepted_call().billed(cost, "USD")]
    outcome = await bench.outcome()
    assert isinstance(outcome, Retry)
    assert outcome.delay_s >= 4.0
    (state,) = await bench.limiter.snapshot(bench.route.quotas)
    assert 3 < state.cooldown_s <= 4


async def test_an_empty_balance_inside_an_accepted_call_pauses_the_quota(
    redis: Redis,
) -> None:
    bench = Bench(redis, quota={"requests": "100/s"})
    bench.answers = [ProviderError(ErrorKind.BILLING_EXHAUSTED, "top up", http_status=200).of_accepted_call()]
    assert isinstance(await bench.outcome(), Retry)
    (state,) = await bench.limiter.snapshot(bench.route.quotas)
    assert state.paused_reason is not None


async def test_a_fault_of_this_machine_stops_no_other_and_costs_nothing(redis: Redis) -> None:
    bench = Bench(redis, quota={"requests": "100/s"})
    bench.answers = [
        ProviderError(
            ErrorKind.AUTH,
            "The clock of w1 is wrong.",
            scope=Scope.MACHINE,
            retry=MayRetry.AFTER_THROTTLE,
        )
    ]
    outcome = await bench.outcome()
    assert isinstance(outcome, Throttled)
    assert outcome.delay_s > 0, "or it would be sent from here again and again"
    (state,) = await bench.limiter.snapshot(bench.route.quotas)
    assert (state.cooldown_s, state.paused_reason) == (0, None)
    assert not {"quota.cooldown", "quota.paused"} & set(await bench.installation.kinds())


async def test_a_recalled_permit_sends_nothing_and_the_job_goes_back_unharmed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def called_back(_run: Run) -> None:
        raise Recalled

    monkeypatch.setattr(bench, "call_begins", called_back)
    run = await bench.claimed()
    assert await bench.executor.run(run) == Released()
    assert bench.provider.requests == []
    await bench.installation.queue.settle(run.item, Released())
    record = await bench.installation.record(run.item.uid)
    assert (record["state"], record["attempts"], record["intent_us"]) == ("queued", "0", "")


async def test_a_permit_that_is_recalled_while_the_call_connects_sends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def called_back(_run: Run, _rtt_s: float | None) -> None:
        raise Recalled

    async def connects(_request: Request) -> Generated:
        before_send = bench.provider.hooks.before_send
        assert before_send is not None
        await before_send(None)
        raise AssertionError("it was sent")

    monkeypatch.setattr(bench, "call_leaves", called_back)
    bench.provider.answer = connects
    run = await bench.claimed()
    assert await bench.executor.run(run) == Released()
    assert not run.sent, "its permit is given back whole"


async def test_the_rates_in_an_answers_headers_are_passed_on(bench: Bench) -> None:
    async def answer(_request: Request) -> Generated:
        return replace(generated(), headers={"x-ratelimit-remaining": "7"})

    bench.provider.answer = answer
    await bench.outcome()
    assert bench.headers == [{"x-ratelimit-remaining": "7"}]
    bench.provider.answer = bench._answer
    await bench.outcome(id="b")
    assert len(bench.headers) == 1, "an answer without them is not taken for the one before"


async def test_headers_are_passed_on_after_the_task_is_noted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(_request: Request) -> Submitted:
        return Submitted("task-1", headers={"x-ratelimit-remaining": "7"})

    noted: list[bytes | str] = []

    async def call_answered(run: Run, _permit: Permit | None) -> None:
        noted.append((await bench.installation.record(run.item.uid))["receipt"])

    monkeypatch.setattr(bench, "call_answered", call_answered)
    bench.provider.answer = answer
    bench.provider.poll_answers = [generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    assert '"task-1"' in str(noted[0])


@pytest.mark.parametrize(
    ("answers", "polls"),
    [
        ([], []),
        ([Submitted("task-1")], [Pending("RUNNING"), generated()]),
        ([Submitted("task-1")], [ProviderError(ErrorKind.MODERATION_OUTPUT, "Not this.")]),
    ],
    ids=["at-once", "task", "failed-task"],
)
async def test_the_place_is_free_before_anything_else_is_done_about_an_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, answers: list[Any], polls: list[Any]
) -> None:
    steps: list[str] = []

    def noted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        async def step(*args: Any, **options: Any) -> Any:
            steps.append(name)
            return await real(*args, **options)

        monkeypatch.setattr(owner, name, step)

    for owner, name in [
        (bench, "call_accepted"),
        (bench, "call_ended"),
        (bench, "call_answered"),
        (bench.durations, "learn"),
        (bench.store, "put_image"),
    ]:
        noted(owner, name)
    bench.answers, bench.provider.poll_answers = [*answers], [*polls]
    await bench.outcome()
    before = ["call_accepted", "call_answered"] if answers else []
    assert steps[: len(before) + 1] == [*before, "call_ended"]
    kept = set() if polls and isinstance(polls[-1], ProviderError) else {"put_image"}
    assert {*(["learn"] if answers else ["call_answered"]), *kept} <= set(steps[len(before) + 1 :])


@pytest.mark.parametrize(
    ("report", "task"),
    [("call_ended", False), ("call_answered", False), ("call_ended", True), ("learn", True)],
)
async def test_a_paid_picture_is_stored_while_redis_takes_no_report(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, report: str, task: bool
) -> None:
    works = asyncio.Event()
    polled = asyncio.Event()

    async def waits_for_redis(*_: object, **__: object) -> None:
        if not task or polled.is_set():
            await works.wait()

    async def poll(*_: object, **__: object) -> Generated:
        polled.set()
        return generated()

    monkeypatch.setattr(bench.durations if report == "learn" else bench, report, waits_for_redis)
    monkeypatch.setattr(bench.provider, "poll", poll)
    bench.answers = [Submitted("task-1")] if task else []
    run = await bench.claimed()
    ends = asyncio.create_task(bench.executor.run(run))

    async def stored() -> bool:
        return await bench.store.get(f"default/{run.place[1]:%Y%m%d}/single/a.png") is not None

    await eventually(stored)
    assert not ends.done(), "the settle comes after the reports"
    works.set()
    assert isinstance(await ends, Succeeded)


async def test_a_report_that_fails_costs_no_picture_and_stops_no_later_report(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(_run: Run, *, answered: bool = True) -> None:
        raise ResponseError("WRONGTYPE")

    learnt: list[object] = []

    async def learn(*facts: object) -> None:
        learnt.append(facts)

    monkeypatch.setattr(bench, "call_ended", breaks)
    monkeypatch.setattr(bench.durations, "learn", learn)
    bench.answers, bench.provider.poll_answers = [Submitted("task-1")], [generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    assert len(learnt) == 1


async def test_a_run_that_is_stopped_takes_its_reports_along(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    async def call_ended(_run: Run, *, answered: bool = True) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    monkeypatch.setattr(bench, "call_ended", call_ended)
    ends = asyncio.create_task(bench.outcome())
    await began.wait()
    ends.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ends
    assert stopped.is_set()


@pytest.mark.parametrize("lost_in", ["call_ended", "put_image", "both"])
async def test_a_run_that_loses_its_item_still_sends_its_reports(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, lost_in: str
) -> None:
    works, reached, freed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def call_ended(_run: Run, *, answered: bool = True) -> None:
        await works.wait()
        freed.set()
        if lost_in != "put_image":
            raise LeaseLost("taken over")

    stores = bench.store.put_image

    async def put_image(*args: Any, **options: Any) -> Any:
        reached.set()
        if lost_in != "call_ended":
            raise LeaseLost("taken over")
        return await stores(*args, **options)

    monkeypatch.setattr(bench, "call_ended", call_ended)
    monkeypatch.setattr(bench.store, "put_image", put_image)
    ends = asyncio.create_task(bench.outcome())
    await reached.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not ends.done()
    works.set()
    with pytest.raises(LeaseLost):
        await ends
    assert freed.is_set(), "the call has ended, so its place is free whoever has the item"


async def test_a_failure_of_the_account_reaches_the_limiter_with_its_place(bench: Bench) -> None:
    bench.answers = [Submitted("task-1")]
    blames = ProviderError(ErrorKind.CONCURRENCY_LIMITED, "Too many.").of_accepted_call()
    bench.provider.poll_answers = [blames]
    await bench.outcome()
    assert bench.ended == [], "the pool frees it, after the limiter has counted the running calls"


async def test_the_headers_of_a_reply_reach_the_quota_though_its_place_is_free(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[object] = []
    permit: Any = object()

    async def call_answered(_run: Run, permit: object) -> None:
        noted.append(permit)

    async def call_ended(run: Run, *, answered: bool = True) -> None:
        run.permit = None

    monkeypatch.setattr(bench, "call_answered", call_answered)
    monkeypatch.setattr(bench, "call_ended", call_ended)
    run = await bench.claimed()
    run.permit = permit
    await bench.executor.run(run)
    assert noted == [permit]


@pytest.mark.parametrize(
    ("kind", "pause_s"),
    [(ErrorKind.RATE_LIMITED, 7), (ErrorKind.OVERLOADED, 0), (ErrorKind.POLL_ERROR, 0), (ErrorKind.AUTH, 0)],
)
async def test_a_throttled_poll_pauses_the_polls_of_its_account_and_no_call(
    redis: Redis, kind: ErrorKind, pause_s: float
) -> None:
    bench = Bench(redis, {"images": "100/s"})
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [ProviderError(kind, "Slow down.", retry_after_s=7), generated()]
    assert isinstance(await bench.outcome(), Succeeded)
    (quota,) = bench.route.quotas
    calls, polls = await Limiter(redis, "pixmill").snapshot([quota, quota.polls])
    assert calls.cooldown_s == 0
    assert polls.cooldown_s == pytest.approx(pause_s, abs=1)


async def test_exhausted_credit_pauses_the_quota_with_its_reason_and_loses_no_job(redis: Redis) -> None:
    bench = Bench(redis, {"images": "100/s"})
    bench.answers = [ProviderError(ErrorKind.BILLING_EXHAUSTED, "Your credit is used up.", http_status=429)]
    outcome = await bench.outcome()
    assert isinstance(outcome, Throttled)
    (state,) = await Limiter(redis, "pixmill").snapshot(bench.route.quotas)
    assert state.paused_reason == "Your credit is used up."
    assert "quota.paused" in await bench.installation.kinds()


async def test_an_allowance_that_comes_back_by_itself_pauses_until_then(redis: Redis) -> None:
    bench = Bench(redis, {"images": "100/s"})
    spent = ProviderError(ErrorKind.QUOTA_EXHAUSTED, "50 a day are used up.", retry_after_s=7200.0)
    bench.answers = [spent]
    assert isinstance(await bench.outcome(), Throttled)
    (explained,) = await Limiter(redis, "pixmill").explain(bench.route.quotas)
    assert explained.state.paused_reason == "50 a day are used up."
    assert explained.pause_ends_s == pytest.approx(7200, abs=30)


async def never(_request: Request) -> Generated:
    await asyncio.Event().wait()
    raise AssertionError


def due(run: Run, seconds: float) -> Run:
    """The run with a deadline in that many seconds."""
    deadline = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    spec = orjson.dumps({**orjson.loads(run.item.spec), "deadline": deadline})
    return replace(run, item=replace(run.item, spec=spec))


async def test_a_call_without_an_answer_in_time_has_an_unknown_outcome(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.worker.run.GRACE_S", 0.0)
    bench.route = Route("default", bench.provider, "model-1", (), timeout_s=0.05)
    bench.provider.answer = never
    outcome = await bench.outcome()
    assert isinstance(outcome, Unknown)
    assert "0.05 s" in outcome.error["message"]


async def test_a_call_unanswered_at_the_deadline_has_an_unknown_outcome(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.worker.run.GRACE_S", 0.0)
    bench.provider.answer = never
    outcome = await bench.executor.run(due(await bench.claimed(), 0.1))
    assert isinstance(outcome, Unknown)
    assert (outcome.error["kind"], outcome.error["charged"]) == ("ambiguous_submit", "maybe")
    assert "deadline" in outcome.error["message"]


async def test_a_provider_is_given_no_more_time_than_the_job_has(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    async def submit(_request: Request, *, timeout_s: float, hooks: CallHooks) -> Generated:
        given.append(timeout_s)
        return generated()

    monkeypatch.setattr(bench.provider, "submit", submit)
    await bench.executor.run(due(await bench.claimed(), 3.0))
    await bench.outcome(id="b")
    assert 2.0 < given[0] <= 3.0
    assert 55.0 < given[1] <= 60.0, "the route's own limit"


async def test_a_task_is_polled_once_more_when_its_time_is_over(bench: Bench) -> None:
    bench.route = Route("default", bench.provider, "model-1", (), timeout_s=0.05)
    bench.provider.plan = PollPlan(first_s=30.0, longest_s=30.0)
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [generated()]
    bench.sleep = asyncio.sleep
    assert isinstance(await bench.outcome(), Succeeded)
    assert len(bench.slept) == 1
    assert bench.slept[0] <= 0.05


async def test_a_task_that_was_taken_over_after_its_deadline_is_polled_once(bench: Bench) -> None:
    run = await bench.claimed()
    await bench.installation.queue.note_intent(run.item)
    await bench.installation.queue.note_receipt(run.item, b'{"task_id":"task-1"}')
    late = due(await bench.taken_over(), -60)
    bench.provider.poll_answers = [generated()]
    assert isinstance(await bench.executor.run(late), Succeeded)

    bench.provider.poll_answers = [Pending("RUNNING")]
    outcome = await bench.executor.run(
        replace(late, item=replace(late.item, accepted_us=2**52, sent_us=2**52))
    )
    assert isinstance(outcome, Failed)
    assert (outcome.error["kind"], outcome.error["resumable"]) == ("deadline", True)
    assert bench.provider.poll_answers == []


async def test_a_task_that_does_not_end_in_time_fails_and_its_retry_polls_it_again(bench: Bench) -> None:
    bench.route = Route("default", bench.provider, "model-1", (), timeout_s=0.05)
    bench.answers = [Submitted("task-1")]
    bench.provider.poll_answers = [Pending("RUNNING")] * 10_000

    async def a_moment(_seconds: float) -> None:
        await asyncio.sleep(0.001)

    bench.sleep = a_moment
    run = await bench.claimed()
    outcome = await bench.executor.run(run)
    assert isinstance(outcome, Failed)
    assert outcome.error["resumable"] is True
    await bench.installation.queue.settle(run.item, outcome)

    await bench.installation.submit({"job": "a"}, type="pixmill.retry.v1")
    bench.provider.poll_answers = [generated()]
    (item,) = await bench.installation.claim()
    assert isinstance(await bench.executor.run(Run(item, bench.route, None)), Succeeded)
    assert len(bench.provider.requests) == 1, "the task was paid once"


class BrokenStore(ResultStore):
    """Fails a number of puts, and notes whether the item was settled meanwhile."""

    failures = 3

    async def put_image(self, key: str, data: bytes) -> Stored:
        if self.failures:
            self.failures -= 1
            raise StorageError("the disk is full")
        return await super().put_image(key, data)


async def test_a_paid_picture_stays_in_memory_while_the_store_fails(bench: Bench) -> None:
    broken = BrokenStore(MemoryStore(), "memory://")
    bench.executor._keeper = PictureKeeper(
        broken, bench.gate, bench.installation.metrics, bench.installation.queue.now_us
    )
    run = await bench.claimed()
    outcome = await bench.executor.run(run)
    assert isinstance(outcome, Succeeded)
    assert len(bench.slept) == 3
    assert len(bench.provider.requests) == 1
    assert (await bench.installation.record("default//a"))["state"] == "running", "settled only after the run"


async def test_bytes_that_are_no_picture_are_not_stored(bench: Bench) -> None:
    bench.answers = [generated(b"<html>busy</html>")]
    outcome = await bench.outcome()
    assert isinstance(outcome, Unknown), "it is paid for, so the job decides whether another one is bought"
    assert outcome.error["kind"] == "bad_response"
    assert "HTML" in outcome.error["message"]


async def test_an_input_is_read_from_the_store_and_checked(bench: Bench) -> None:
    await bench.store.put_image("default/input.png", png(4, 4))
    outcome = await bench.outcome(inputs=[{"object": "default/input.png"}])
    assert isinstance(outcome, Succeeded)
    assert bench.provider.requests[0].inputs[0].content_type == "image/png"


async def test_the_error_of_a_missing_input_names_the_input(bench: Bench) -> None:
    outcome = await bench.outcome(inputs=[{"object": "default/none.png"}])
    assert isinstance(outcome, Failed)
    assert outcome.error["field"] == "inputs.0.object"
    assert bench.provider.requests == []


async def test_a_deadline_that_passes_before_the_call_is_no_lost_answer(bench: Bench) -> None:
    run = await bench.claimed(deadline="2999-01-01T00:00:00Z")
    late = orjson.dumps({**orjson.loads(run.item.spec), "deadline": "2020-01-01T00:00:00Z"})
    outcome = await bench.executor.run(Run(replace(run.item, spec=late), bench.route, None))
    assert isinstance(outcome, Failed)
    assert (outcome.error["kind"], outcome.error["charged"]) == ("deadline", "no")
    assert bench.provider.requests == []
    assert "intent_us" not in await bench.installation.record("default//a")


async def test_a_deadline_that_a_person_has_waived_does_not_hold(bench: Bench) -> None:
    run = await bench.claimed(deadline="2999-01-01T00:00:00Z")
    late = orjson.dumps({**orjson.loads(run.item.spec), "deadline": "2020-01-01T00:00:00Z"})
    run = Run(
        replace(run.item, spec=late, waived_us=await bench.installation.queue.now_us()), bench.route, None
    )
    assert isinstance(await bench.executor.run(run), Succeeded)


async def test_a_deadline_that_had_not_passed_when_a_person_retried_still_holds(bench: Bench) -> None:
    run = await bench.claimed(deadline="2999-01-01T00:00:00Z")
    late = orjson.dumps({**orjson.loads(run.item.spec), "deadline": "2020-01-01T00:00:00Z"})
    before_us = 1_500_000_000_000_000  # in 2017
    outcome = await bench.executor.run(
        Run(replace(run.item, spec=late, waived_us=before_us), bench.route, None)
    )
    assert isinstance(outcome, Failed)
    assert outcome.error["kind"] == "deadline"


async def test_a_call_that_was_handed_in_is_looked_up_in_the_store(bench: Bench) -> None:
    run = await bench.claimed()
    assert isinstance(await bench.executor.run(run), Succeeded)
    handed_in = replace(run.item, intent_us=run.item.accepted_us)
    assert isinstance(await bench.executor.run(Run(handed_in, bench.route, None)), Succeeded)
    assert len(bench.provider.requests) == 1


async def test_a_large_answer_frees_its_memory_though_redis_is_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, answers = asyncio.Event(), asyncio.Event()

    async def call_ended(_run: Run) -> None:
        await answers.wait()

    async def unpacks(_request: Request) -> Generated:
        await take_room(1_000_000)
        return generated()

    bench.provider.answer = unpacks
    monkeypatch.setattr(bench, "call_ended", call_ended)
    monkeypatch.setattr(bench.executor._memory, "release", lambda _run: released.set())
    running = asyncio.create_task(bench.outcome())
    async with asyncio.timeout(10):
        await released.wait()
    answers.set()
    assert isinstance(await running, Succeeded)


async def test_a_picture_of_older_work_with_the_same_name_is_not_this_ones(bench: Bench) -> None:
    first = await bench.outcome()
    assert isinstance(first, Succeeded)
    run = await bench.taken_over()
    later_us = run.item.accepted_us + 60_000_000
    later = replace(run.item, accepted_us=later_us, sent_us=later_us, receipt=b"", intent_us=None)
    assert await bench.executor.run(Run(later, bench.route, None, adopted=True)) == Released()
    bench.answers = [generated(png(32, 32))]
    outcome = await bench.executor.run(Run(later, bench.route, None))
    assert isinstance(outcome, Succeeded)
    assert outcome.result["images"][0]["width"] == 32


class SlowClock(ResultStore):
    """A store whose clock is `behind`."""

    behind = timedelta(seconds=30)

    async def _read(self, key: str) -> tuple[bytes, datetime] | None:
        found = await super()._read(key)
        return found and (found[0], found[1] - self.behind)


async def test_a_picture_is_found_though_the_clock_of_its_store_is_behind(bench: Bench) -> None:
    bench.executor._keeper._store = SlowClock.open("memory://")
    first = await bench.executor.run(await bench.claimed())
    assert isinstance(first, Succeeded)
    second = await bench.executor.run(await bench.taken_over())
    assert isinstance(second, Succeeded)
    assert len(bench.provider.requests) == 1


async def test_a_slow_clock_does_not_make_older_work_this_items(bench: Bench) -> None:
    bench.executor._keeper._store = SlowClock.open("memory://")
    assert isinstance(await bench.outcome(), Succeeded)
    run = await bench.taken_over()
    later_us = run.item.accepted_us + 60_000_000
    later = replace(run.item, accepted_us=later_us, sent_us=later_us, receipt=b"", intent_us=None)
    bench.answers = [generated(png(32, 32))]
    outcome = await bench.executor.run(Run(later, bench.route, None))
    assert isinstance(outcome, Succeeded)
    assert outcome.result["images"][0]["width"] == 32


async def test_a_picture_whose_age_is_in_doubt_does_not_wait_for_redis(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> int:
        raise RedisConnectionError("away")

    bench.executor._keeper._store = SlowClock.open("memory://")
    run = await bench.claimed()
    await bench.executor._keeper.keep(run.place, Job.from_spec(run.item.spec), png(), seed=None)
    monkeypatch.setattr(bench.executor._keeper, "_now_us", away)
    kept = await bench.executor._keeper.keep(run.place, Job.from_spec(run.item.spec), png(), seed=None)
    assert kept["bytes"] == len(png())


async def test_a_damaged_file_under_the_key_is_made_again(bench: Bench) -> None:
    first = await bench.executor.run(await bench.claimed())
    assert isinstance(first, Succeeded)
    await bench.store.replace(first.result["images"][0]["key"], b"")
    assert isinstance(await bench.executor.run(await bench.taken_over()), Unknown), "nothing usable is there"


async def test_an_outage_of_redis_during_a_429_is_no_failed_attempt(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(redis, {"images": "100/s"})
    bench.answers = [ProviderError(ErrorKind.RATE_LIMITED, "slow down", http_status=429, retry_after_s=7.0)]
    real, calls = bench.limiter.penalise, 0

    async def away_once(*args: Any, **options: Any) -> Penalty:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RedisConnectionError("gone")
        return await real(*args, **options)

    monkeypatch.setattr(bench.limiter, "penalise", away_once)
    assert isinstance(await bench.outcome(), Throttled)
    (state,) = await Limiter(redis, "pixmill").snapshot(bench.route.quotas)
    assert state.cooldown_s > 6
