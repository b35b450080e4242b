"""After any order of steps the queue on a real server equals its model: nothing is lost or published twice.

hypothesis draws the order: entries and interrupted entries, claims, notes, heartbeats, settles (also late and repeated
ones), cancels and retries, silent workers, due times, the janitor. After each step everything in Redis is compared.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis
from redis.asyncio.retry import Retry as RedisRetry
from redis.backoff import NoBackoff

from daemon.intake import acceptance as intake
from daemon.queue import orders
from daemon.queue.messages import Claimed, LeaseLost
from daemon.queue.outcomes import (
    Cancelled,
    Failed,
    Held,
    Outcome,
    Released,
    Retry,
    Succeeded,
    Throttled,
    Unknown,
)
from daemon.queue.queue import Queue
from pixmill.records.keys import LANES
from tests.daemon.harness import Installation
from tests.daemon.queue.model_items import FINAL, Item
from tests.daemon.queue.queue_checks import check_group, check_owners, check_place, check_record
from tests.daemon.queue.queue_model import QueueModel
from tests.daemon.queue.queue_reading import BY_WORK, Reading, read_all
from tests.daemon.virtual_time import VirtualTime, rfc3339, use_virtual_time
from tests.servers import RedisServer

CHUNK = 2  # items an accept call here, so that a part can be interrupted between two of them
LEASE_S = 15.0
MOST_CRASHES = 2
ERROR = {"kind": "provider_fault", "message": "The provider failed.", "charged": "maybe", "retryable": True}

_TENANTS = st.sampled_from(["anna", "bert"])
_TIMES = st.sampled_from(
    [(None, None)] * 4 + [(5, None), (None, 5), (None, 30), (None, -1), (5, 5.5), (30, 60)]
)
_FIELDS = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["x", "x", "y"])},
    optional={  # never what would be the default: giving that changes no content
        "priority": st.just("high"),
        "max_attempts": st.integers(1, 3),
        "on_unknown_outcome": st.sampled_from(["hold", "fail"]),
    },
)
_ALL_STATES = ["queued", "throttled", "retry_wait", "running", "held", *sorted(FINAL)]
_STATES = st.one_of(
    *(st.just(_ALL_STATES) for _ in range(3)),
    st.lists(st.sampled_from(_ALL_STATES), min_size=1, unique=True),
)
_OUTCOMES: st.SearchStrategy[Outcome] = st.one_of(
    st.just(Succeeded({"images": []})),
    st.just(Failed(ERROR)),
    st.builds(Retry, st.just(ERROR), st.sampled_from([0.0, 2.0, 40.0])),
    st.builds(Throttled, st.just(ERROR), st.sampled_from([0.0, 2.0])),
    st.just(Unknown(ERROR)),
    st.just(Held(ERROR)),
    st.just(Cancelled()),
    st.just(Released()),
)
_PICK = st.integers(0, 99)
_CAPS = st.sampled_from([None, None, 1, 2])


class QueueMachine(RuleBasedStateMachine):
    """Drives the queue and its model side by side."""

    url = ""  # of the server; set by the test

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.model = QueueModel()
        self.unread: list[dict[str, Any]] = []
        self.handles: list[Claimed] = []
        self.seen_event = "0"
        self.sound = True
        self.do(self._begin())

    async def _begin(self) -> None:
        self.redis: Any = Redis.from_url(self.url, retry=RedisRetry(NoBackoff(), 0))
        await self.redis.flushall()
        self.installation = Installation(self.redis, worker="w1")
        self.queues = [self.installation.queue, self.installation.other("w2")]
        self.time = VirtualTime(self.redis)
        await self.time.advance()
        await self.installation.intake.create_group()

    def do(self, step: Coroutine[Any, Any, Any]) -> Any:
        self.sound = False
        answer = self.loop.run_until_complete(step)
        self.sound = True
        return answer

    @initialize(cap=_CAPS)
    def work_is_under_way(self, cap: int | None) -> None:
        self.a_batch_comes(
            "anna", (1, 1), [(number, {"prompt": "x"}, (None, None)) for number in range(3)], cap, None
        )
        self.a_worker_claims(0, 2)

    # Entries

    @rule(tenant=_TENANTS, ident=st.sampled_from(["j1", "j2", "j3"]), fields=_FIELDS, times=_TIMES)
    def a_job_comes(self, tenant: str, ident: str, fields: dict[str, Any], times: Any) -> None:
        job = {"id": ident, "tenant": tenant, **fields, **self._times(times)}
        self.do(self._add(job, "pixmill.job.v1"))
        self.model.take_job(job, self.time.now_us)

    @rule(
        tenant=_TENANTS,
        ident=st.sampled_from(["j1", "j4"]),
        n=st.integers(2, 3),
        fields=_FIELDS,
        dies_after=st.sampled_from([None, None, 0, 1]),
    )
    def a_job_of_several_comes(
        self, tenant: str, ident: str, n: int, fields: dict[str, Any], dies_after: int | None
    ) -> None:
        self._take_group({"id": ident, "tenant": tenant, "n": n, **fields}, dies_after)

    @rule(
        tenant=_TENANTS,
        parts=st.sampled_from([(1, 1), (1, 1), (1, 2), (2, 2), (1, 3), (2, 3), (3, 3)]),
        items=st.lists(
            st.tuples(st.integers(0, 3), _FIELDS, _TIMES),
            min_size=1,
            max_size=4,
            unique_by=lambda item: item[0],
        ),
        cap=_CAPS,
        dies_after=st.sampled_from([None, None, 0, 1]),
    )
    def a_batch_comes(
        self, tenant: str, parts: tuple[int, int], items: list[Any], cap: int | None, dies_after: int | None
    ) -> None:
        part, of = parts
        rows = [{"id": f"i{number}", **fields, **self._times(times)} for number, fields, times in items]
        batch = {"id": f"b{of}", "tenant": tenant, "part": part, "parts": of, "items": rows}
        self._take_group({**batch, **({} if cap is None else {"max_in_flight": cap})}, dies_after)

    @precondition(lambda self: self.unread)
    @rule()
    def interrupted_entries_are_read_again(self) -> None:
        self.installation.intake._lease_s = 0
        self.do(self.installation.intake.reclaim())
        unread, self.unread = self.unread, []
        for payload in unread:
            assert self.model.take_group(payload, self.time.now_us, chunk=CHUNK)

    def _take_group(self, payload: dict[str, Any], dies_after: int | None) -> None:
        self.do(
            self._add(payload, "pixmill.batch.v1" if "items" in payload else "pixmill.job.v1", dies_after)
        )
        if not self.model.take_group(payload, self.time.now_us, chunk=CHUNK, dies_after=dies_after):
            self.unread.append(payload)

    async def _add(self, payload: dict[str, Any], kind: str, dies_after: int | None = None) -> None:
        await self.installation.add(_on_the_wire(payload), type=kind)
        accept, calls = self.installation.queue.accept, 0

        async def dying(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if dies_after is not None and calls > dies_after:
                raise ConnectionError("the taker dies here")
            return await accept(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.installation.queue, "accept", dying)
            try:
                await self.installation.take_all()
            except ConnectionError:
                assert dies_after is not None

    def _times(self, times: tuple[float | None, float | None]) -> dict[str, int]:
        named = zip(("not_before_us", "expires_us"), times, strict=True)
        return {name: self.time.now_us + round(s * 1e6) for name, s in named if s is not None}

    # Runs

    @precondition(lambda self: self.model.items)
    @rule(worker=st.integers(0, 1), count=st.sampled_from([1, 5, 5]))
    def a_worker_claims(self, worker: int, count: int) -> None:
        overdue = [uid for uid, item in self.model.items.items() if item.overdue(self.time.now_us)]
        items = self.do(self.queues[worker].claim("default", count)).items
        for uid in overdue:
            if self.do(self.installation.record(uid))["state"] == "expired":
                self.model.expire(uid)
        for item in items:
            self._check_handed_out(item, self.model.start(item.uid, self.time.now_us))
        assert len(items) == count or not self.model.startable(self.time.now_us), "something waits in vain"
        self.handles += items

    def _check_handed_out(self, item: Claimed, model: Item) -> None:
        assert (item.attempts, item.deliveries, item.throttles, int(item.epoch), item.lane) == (
            *(model.attempts, model.deliveries, model.throttles, model.epoch, model.lane),
        )
        assert (item.intent_us is not None, item.receipt.decode()) == (model.intent, model.receipt)

    @precondition(lambda self: self.handles)
    @rule(pick=_PICK, what=st.sampled_from(["intent", "receipt"]))
    def a_worker_notes(self, pick: int, what: str) -> None:
        item = self._handle(pick)
        owned = self.model.owns(item.uid, int(item.epoch))
        queue = self.installation.queue
        if what == "receipt":
            receipt = f'{{"task_id":"t{item.epoch}"}}'
            expected = self.model.note_receipt(item.uid, int(item.epoch), receipt)
            assert self.do(queue.note_receipt(item, receipt.encode())) == expected
            return
        try:
            polled = self.do(queue.note_intent(item))
        except LeaseLost:
            self.sound = True
            assert not owned
            return
        assert owned, "a worker that lost its lease may send nothing"
        assert polled.decode() == self.model.note_intent(item.uid)

    @precondition(lambda self: self.handles)
    @rule(pick=_PICK, worker=st.integers(0, 1))
    def a_worker_renews(self, pick: int, worker: int) -> None:
        item = self._handle(pick)
        model = self.model.items[item.uid]
        (answer,) = self.do(self.queues[worker].renew([item]))
        owned = self.model.owns(item.uid, int(item.epoch))
        assert answer == (("cancel" if model.cancel else "ours") if owned else "lost")
        if owned:
            model.silent = False

    @precondition(lambda self: self.handles)
    @rule(pick=_PICK, outcome=_OUTCOMES, charged=st.sampled_from(["", "yes", "maybe"]))
    def a_worker_settles(self, pick: int, outcome: Outcome, charged: str) -> None:
        item = self._handle(pick)
        delay_us = round(getattr(outcome, "delay_s", 0) * 1e6)
        expected = self.model.settle(
            item.uid, int(item.epoch), outcome.name, delay_us, charged, self.time.now_us
        )
        assert self.do(self.installation.queue.settle(item, outcome, charged)) == expected

    @precondition(lambda self: self.handles)
    @rule(pick=_PICK, noticed=st.booleans())
    def a_worker_goes_silent(self, pick: int, noticed: bool) -> None:
        item = self._handle(pick)
        if not self.model.owns(item.uid, int(item.epoch)):
            return
        self.model.items[item.uid].silent = True
        stream = self.installation.keys.stream("default", item.lane)
        idle = {"idle": round(LEASE_S * 1000) + 1000, "justid": True}
        self.do(self.redis.xclaim(stream, "workers", "silent", 0, [item.entry], **idle))
        if noticed:
            self.silent_workers_lose_their_items(1)

    @precondition(lambda self: self.model.items)
    @rule(worker=st.integers(0, 1))
    def silent_workers_lose_their_items(self, worker: int) -> None:
        silent = {uid for uid, item in self.model.items.items() if item.silent}
        queue: Queue = self.queues[worker]
        pages = [
            self.do(queue.reclaim("default", lane, lease_s=LEASE_S, cursor="0-0", most_crashes=MOST_CRASHES))
            for lane in LANES
        ]
        adopted = [item for page in pages for item in page.items]
        kept = {uid for uid in silent if self.model.take_over(uid, MOST_CRASHES, self.time.now_us)}
        assert {item.uid for item in adopted} == kept
        assert sum(page.poisoned for page in pages) == len(silent - kept)
        for item in adopted:
            self._check_handed_out(item, self.model.items[item.uid])
        self.handles += adopted

    def _handle(self, pick: int) -> Claimed:
        """A handle, mostly one of the latest; old handles are those of workers that slept."""
        return self.handles[-1 - pick % min(len(self.handles), 8)]

    # Time and orders

    @precondition(lambda self: self.model.items)
    @rule(seconds=st.sampled_from([0.5, 2, 5, 30]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.time.advance(round(seconds * 1e6)))

    @precondition(lambda self: self.model.items)
    @rule()
    def due_items_move(self) -> None:
        moved, _ = self.do(self.installation.queue.due())
        assert moved == self.model.due(self.time.now_us)

    @precondition(lambda self: self.model.items)
    @rule(pick=_PICK, whole=st.booleans(), states=_STATES)
    def a_person_cancels(self, pick: int, whole: bool, states: list[str]) -> None:
        kind, name = self._target(pick, whole)
        changed = self.do(self.installation.orders.cancel(kind, name, states))
        assert (changed.ended_or_queued, changed.requested) == self.model.cancel(kind, name, states)

    @precondition(lambda self: self.model.items)
    @rule(pick=_PICK, whole=st.booleans(), states=_STATES)
    def a_person_retries(self, pick: int, whole: bool, states: list[str]) -> None:
        kind, name = self._target(pick, whole)
        changed = self.do(self.installation.orders.retry(kind, name, states))
        assert changed.ended_or_queued == self.model.retry(kind, name, states, self.time.now_us)

    def _target(self, pick: int, whole: bool) -> tuple[Any, str]:
        if whole and self.model.groups:
            return "group", list(self.model.groups)[pick % len(self.model.groups)]
        return "item", list(self.model.items)[pick % len(self.model.items)]

    @precondition(lambda self: self.model.groups)
    @rule(pages=st.integers(1, 9))
    def maintenance_runs(self, pages: int) -> None:
        """Publish progress, and let the janitor do some pages."""
        for counts in self.do(self.installation.queue.progress(gap_s=0)):
            group = self.model.groups[counts.gid]
            published = {
                name: count for name, count in counts.by_state().items() if count and name != "total"
            }
            assert published == dict(group.counts())
            assert counts.total == sum(published.values())
        for _ in range(pages):
            if not self.do(self.installation.queue.close_groups(page=2)):
                break

    # Invariants

    @invariant()
    def everything_is_where_the_model_says(self) -> None:
        reading = self.do(read_all(self.redis, self.installation.keys, self.seen_event))
        self.sound = False
        assert (reading.strangers, reading.torn) == ([], [])
        assert reading.records.keys() == self.model.items.keys()
        assert reading.groups.keys() == self.model.groups.keys()
        for uid, item in self.model.items.items():
            check_record(item, reading.records[uid])
            check_place(item, reading)
        for gid, group in self.model.groups.items():
            check_group(group, reading.groups[gid])
        waiting = {uid for uid, item in self.model.items.items() if item.waits}
        assert reading.waiting == waiting
        assert reading.tenants == self.model.waiting_by_tenant()
        # The expiry of an item with a task is forgotten once it has passed.
        expiring = {
            uid: item for uid, item in self.model.items.items() if item.waits and item.expires_us is not None
        }
        assert all(reading.expiring[uid] == expiring[uid].expires_us for uid in reading.expiring)
        assert {
            uid for uid in expiring.keys() - reading.expiring.keys() if not expiring[uid].has_task
        } == set()
        assert reading.depth == Counter(
            f"default|{item.lane}|{item.state}"
            for item in self.model.items.values()
            if item.state not in FINAL
        )
        assert reading.ended == self.model.ended
        assert reading.active == {gid for gid, group in self.model.groups.items() if group.state == "running"}
        check_owners(self.model, reading)
        self._check_published(reading)
        self.sound = True

    def _check_published(self, reading: Reading) -> None:
        published: Counter[Any] = Counter()
        for entry, fields in reading.events:
            data = orjson.loads(fields["data"])
            published[fields["type"], data["tenant"], data["item"], data["batch"]] += 1
            self.seen_event = entry
        assert published == self.model.events
        self.model.events.clear()
        assert Counter(letter["reason"] for letter in reading.dead) == self.model.dead

    def teardown(self) -> None:
        try:
            if self.sound:
                self._finish_everything()
        finally:
            self.loop.run_until_complete(self.redis.aclose())
            self.loop.close()

    def _finish_everything(self) -> None:
        """All work can be brought to its end from any state, and then every key has a time to live."""
        if self.unread:
            self.interrupted_entries_are_read_again()
        for group in self.model.groups.values():
            if group.parts_left > 0:
                self.do(self.installation.orders.cancel("group", group.gid, ["queued"]))
        held = [uid for uid, item in self.model.items.items() if item.state == "held"]
        for uid in held:
            self.do(self.installation.orders.retry("item", uid, ["held"]))
        for handle in self.handles:
            self.do(self.installation.queue.settle(handle, Succeeded({"images": []})))
        self.do(self.time.advance(3_600_000_000))
        self.do(self.installation.queue.due())
        while items := self.do(self.queues[0].claim("default", 100)).items:
            for item in items:
                self.do(self.installation.queue.settle(item, Succeeded({"images": []})))
        while self.do(self.installation.queue.close_groups(page=2)):
            pass
        reading = self.do(read_all(self.redis, self.installation.keys))
        states = {uid: record["state"] for uid, record in reading.records.items()}
        assert set(states.values()) <= FINAL, states
        assert all(group["state"] != "running" for group in reading.groups.values())
        pieces = [name for name in reading.mortal if BY_WORK.match(name)]
        assert [name for name in pieces if not reading.mortal[name]] == []


def _on_the_wire(payload: dict[str, Any]) -> dict[str, Any]:
    wire = {name: value for name, value in payload.items() if not name.endswith("_us")}
    for name, field in (("not_before_us", "not_before"), ("expires_us", "expires_at")):
        if name in payload:
            wire[field] = rfc3339(payload[name])
    if "items" in payload:
        wire["items"] = [_on_the_wire(item) for item in payload["items"]]
    return wire


@pytest.mark.timeout(240)
def test_the_queue_does_what_its_model_does_in_any_order(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_virtual_time(monkeypatch)
    monkeypatch.setattr(intake, "CHUNK", CHUNK)
    monkeypatch.setattr(orders, "PAGE", 2)
    monkeypatch.setattr(QueueMachine, "url", redis_server.url)
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=80,
            stateful_step_count=30,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
