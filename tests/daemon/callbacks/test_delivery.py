"""Callbacks: stored with their event, signed, tried on a schedule with one id, and given up without harm to the job."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from daemon.callbacks.delivery import DELAYS_S, LEASE_S, MOST_A_HOST, Callbacks
from daemon.callbacks.signing import Webhooks
from daemon.queue.dead_letters import DeadLetters
from daemon.queue.outbox import Outbox
from daemon.queue.outcomes import Failed, Retry, Succeeded
from daemon.telemetry.metrics import Metrics
from pixmill.contract import Event
from providers.http.addresses import OutsideError
from providers.http.asgi import AsgiServer
from tests.daemon.harness import Installation, eventually

KEY = b"a key of twenty-four by."
SECRETS = {"main": (KEY,)}
DONE = Succeeded({"images": []})
ERROR = {"kind": "provider_fault", "message": "It broke.", "charged": "no"}
BATCH = "pixmill.batch.v1"


class Receiver:
    """A server that keeps the requests and replies with `statuses`, then with 204."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.url = ""

    async def hook(self, request: Request) -> Response:
        self.requests.append((dict(request.headers), await request.body()))
        status = self.statuses.pop(0) if self.statuses else 204
        headers = {"location": f"{self.url}/elsewhere"} if 300 <= status < 400 else {}
        return Response(status_code=status, headers=headers)

    async def elsewhere(self, _request: Request) -> Response:
        raise AssertionError("a redirect was followed")

    @property
    def app(self) -> Starlette:
        methods = ["GET", "POST"]
        return Starlette(
            routes=[Route("/hook", self.hook, methods=methods), Route("/elsewhere", self.elsewhere)]
        )

    def events(self) -> list[Event]:
        return [Event.model_validate_json(body) for _, body in self.requests]

    def reported(self) -> list[tuple[str, str]]:
        return [(event.type, event.data["item"]) for event in self.events()]

    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.requests]


class Stage:
    """An installation with callbacks, and the replica's part that delivers them, driven step by step."""

    def __init__(self, redis: Redis, receiver: Receiver) -> None:
        self.receiver = receiver
        self.webhooks = Webhooks(SECRETS, ["127.0.0.1"])
        self.installation = Installation(redis, webhooks=self.webhooks)
        self.redis: Any = redis
        self.keys = self.installation.keys
        self.outbox = Outbox(redis, self.keys.prefix)
        self.metrics = Metrics()
        self.callbacks = self.deliverer(self.webhooks)

    def deliverer(self, webhooks: Webhooks) -> Callbacks:
        return Callbacks(self.outbox, webhooks, self.metrics, rung=asyncio.Event())

    def callback(self, *events: str, secret: str = "main", query: str = "") -> dict[str, Any]:
        wish: dict[str, Any] = {"url": f"{self.receiver.url}/hook{query}", "secret": secret}
        return wish | ({"events": list(events)} if events else {})

    async def deliver(self, callbacks: Callbacks | None = None) -> None:
        """Deliver all due messages, as one round of a replica."""
        callbacks = callbacks or self.callbacks
        await callbacks.deliver_due()
        await callbacks.drain()

    async def due(self) -> dict[str, int]:
        rows = await self.redis.zrange(self.keys.outbox, 0, -1, withscores=True)
        return {ident.decode(): int(score) for ident, score in rows}

    async def pass_time(self) -> None:
        """Advance the time until everything in the outbox is due."""
        for ident in await self.due():
            await self.redis.zadd(self.keys.outbox, {ident: 1})

    def count(self, result: str) -> float:
        return self.metrics.registry.get_sample_value("pixmill_callbacks_total", {"result": result}) or 0

    async def run_job(self, outcome: Any = DONE, **job: Any) -> None:
        await self.installation.submit({"id": "j1", "prompt": "x", "callback": self.callback(), **job})
        (item,) = await self.installation.claim()
        await self.installation.queue.settle(item, outcome)

    async def run_batch(self, items: int = 3, outcome: Any = DONE, **more: Any) -> None:
        await self.installation.batch("b1", items, **more)
        for item in await self.installation.claim(items):
            await self.installation.queue.settle(item, outcome)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with AsyncExitStack() as stack:
        server = AsgiServer(receiver.app)
        await server.start()
        stack.push_async_callback(server.stop)
        receiver.url = server.url
        yield receiver


@pytest.fixture
def stage(redis: Redis, receiver: Receiver) -> Stage:
    return Stage(redis, receiver)


# The events that are sent


async def test_the_end_of_a_job_is_sent_by_default_as_it_was_published(stage: Stage) -> None:
    await stage.run_job()
    await stage.deliver()
    ((headers, body),) = stage.receiver.requests
    published = [data for kind, data in await stage.installation.events() if kind == "job.succeeded"]
    assert orjson.loads(body) == {"type": "job.succeeded", "data": published[0]}
    assert headers["content-type"] == "application/json"
    assert stage.count("delivered") == 1
    assert await stage.due() == {}
    assert await stage.redis.keys("pixmill:message:*") == [], "nothing is left of it"


@pytest.mark.parametrize(
    ("outcome", "kind"), [(DONE, "job.succeeded"), (Failed(ERROR), "job.failed"), (None, "job.cancelled")]
)
async def test_every_kind_of_end_is_sent(stage: Stage, outcome: Any, kind: str) -> None:
    if outcome is None:
        await stage.installation.submit({"id": "j1", "prompt": "x", "callback": stage.callback()})
        await stage.installation.submit({"job": "j1"}, type="pixmill.cancel.v1")
    else:
        await stage.run_job(outcome)
    await stage.deliver()
    assert stage.receiver.reported() == [(kind, "j1")]


async def test_the_expiry_of_a_waiting_job_is_sent(stage: Stage) -> None:
    job = {"id": "j1", "prompt": "x", "expires_at": "2099-01-01T00:00:00Z", "callback": stage.callback()}
    await stage.installation.submit(job)
    await stage.redis.zadd(stage.keys.expiring, {"default//j1": 1})
    await stage.installation.queue.due()
    await stage.deliver()
    assert stage.receiver.reported() == [("job.expired", "j1")]


async def test_only_the_events_that_are_named_are_sent(stage: Stage) -> None:
    wish = stage.callback("job.queued", "job.started", "job.submitted", "job.retrying")
    await stage.installation.submit({"id": "j1", "prompt": "x", "callback": wish})
    (item,) = await stage.installation.claim()
    await stage.installation.queue.note_receipt(item, b'{"task_id":"t1"}')
    await stage.installation.queue.settle(item, Retry(ERROR, 0))
    (item,) = await stage.installation.claim()
    await stage.installation.queue.settle(item, DONE)
    await stage.deliver()
    assert sorted(kind for kind, _ in stage.receiver.reported()) == [
        "job.queued",
        "job.retrying",
        "job.started",
        "job.started",
        "job.submitted",
    ]
    assert len(set(stage.receiver.ids())) == 5, "every event has an id of its own"


async def test_every_picture_of_a_job_is_sent(stage: Stage) -> None:
    await stage.installation.submit({"id": "j1", "prompt": "x", "n": 2, "callback": stage.callback()})
    for item in await stage.installation.claim(2):
        await stage.installation.queue.settle(item, DONE)
    await stage.deliver()
    assert sorted(stage.receiver.reported()) == [("job.succeeded", "j1.0"), ("job.succeeded", "j1.1")]


async def test_the_end_of_a_batch_is_sent_once(stage: Stage) -> None:
    await stage.run_batch(callback=stage.callback())
    await stage.deliver()
    (event,) = stage.receiver.events()
    assert (event.type, event.data["state"]) == ("batch.finished", "completed")
    assert event.data["counts"]["succeeded"] == event.data["counts"]["total"] == 3


async def test_a_batch_sends_the_ends_of_its_items_if_they_are_named(stage: Stage) -> None:
    await stage.run_batch(2, callback=stage.callback("batch.accepted", "job.succeeded"))
    await stage.deliver()
    assert sorted(stage.receiver.reported()) == [
        ("batch.accepted", "b1"),
        ("job.succeeded", "i0"),
        ("job.succeeded", "i1"),
    ]


async def test_the_callback_of_an_item_is_beside_that_of_its_batch(stage: Stage) -> None:
    defaults = {"prompt": "x", "callback": stage.callback()}
    await stage.run_batch(1, defaults=defaults, callback=stage.callback("job.succeeded"))
    await stage.deliver()
    assert stage.receiver.reported() == [("job.succeeded", "i0")] * 2
    assert len(set(stage.receiver.ids())) == 2, "two wishes are two messages"


async def test_a_second_end_of_a_retried_batch_is_sent_under_another_id(stage: Stage) -> None:
    await stage.run_batch(2, Failed(ERROR), callback=stage.callback())
    await stage.deliver()
    await stage.installation.submit({"batch": "b1"}, type="pixmill.retry.v1")
    assert (await stage.installation.group("default/b1"))["state"] == "running"
    for item in await stage.installation.claim(2):
        await stage.installation.queue.settle(item, DONE)
    await stage.deliver()
    assert [event.data["state"] for event in stage.receiver.events()] == ["failed", "completed"]
    assert len(set(stage.receiver.ids())) == 2


async def test_a_prompt_that_mentions_callbacks_is_no_callback(stage: Stage) -> None:
    job = {"id": "j1", "prompt": '"callback":{"url":"https://evil.example"}', "params": {"callback": "x"}}
    await stage.installation.submit(job)
    (item,) = await stage.installation.claim()
    await stage.installation.queue.settle(item, DONE)
    assert await stage.due() == {}


async def test_work_without_a_callback_leaves_nothing_in_the_outbox(stage: Stage) -> None:
    await stage.run_batch()
    assert await stage.due() == {}
    assert await stage.redis.keys("pixmill:message:*") == []


# Refusals


async def test_a_job_whose_secret_is_not_configured_is_rejected_in_a_sentence(stage: Stage) -> None:
    await stage.installation.submit({"id": "j1", "prompt": "x", "callback": stage.callback(secret="other")})
    ((kind, data),) = await stage.installation.events()
    assert (kind, data["code"], data["field"]) == ("job.rejected", "unsupported", "callback.secret")
    assert data["message"].startswith('`callback.secret` names no configured secret: "other"')


async def test_a_batch_with_such_a_callback_is_rejected_as_a_whole(stage: Stage) -> None:
    await stage.installation.batch("b1", 2, callback=stage.callback(secret="other"))
    await stage.installation.batch(
        "b2", 2, defaults={"prompt": "x", "callback": stage.callback(secret="other")}
    )
    reported = [(kind, data["job"], data["field"]) for kind, data in await stage.installation.events()]
    assert reported == [
        ("job.rejected", "b1", "callback.secret"),
        ("job.rejected", "b2", "items.0.callback.secret"),
    ]


@pytest.mark.parametrize("event", ["batch.progress", "job.rejected", "quota.paused"])
async def test_events_that_no_callback_sends_are_refused(stage: Stage, event: str) -> None:
    await stage.installation.submit({"id": "j1", "prompt": "x", "callback": stage.callback(event)})
    ((kind, data),) = await stage.installation.events()
    assert (kind, data["field"]) == ("job.rejected", "callback.events.0")


# Signed, tried again, given up


async def test_a_receiver_can_verify_every_try_by_the_standard(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.receiver.statuses = [500]
    await stage.run_job()
    for now_s in (1_700_000_000.9, 1_700_000_005.2):
        with monkeypatch.context() as patched:
            patched.setattr("daemon.callbacks.delivery.time.time", lambda now_s=now_s: now_s)
            await stage.deliver()
        await stage.pass_time()
    assert [headers["webhook-timestamp"] for headers, _ in stage.receiver.requests] == [
        "1700000000",
        "1700000005",
    ]
    for headers, body in stage.receiver.requests:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(KEY, signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


@pytest.mark.parametrize("status", [500, 404, 429, 301, 307])
async def test_a_failed_callback_is_tried_on_the_schedule_and_then_buried(stage: Stage, status: int) -> None:
    stage.receiver.statuses = [status] * 100
    await stage.run_job()
    waits = []
    while True:
        await stage.deliver()
        if not (due := await stage.due()):
            break
        now_us = await stage.installation.queue.now_us()
        waits.append((next(iter(due.values())) - now_us) / 1e6)
        await stage.pass_time()
    assert waits == pytest.approx([5, 300, 1800, 7200, 18_000, 36_000], abs=2.0)
    assert (len(stage.receiver.requests), len(set(stage.receiver.ids()))) == (7, 1)
    assert (stage.count("retry"), stage.count("failed"), stage.count("delivered")) == (6, 1, 0)
    (letter,) = await stage.installation.dead()
    assert (letter["reason"], letter["attempts"], letter["event"]) == (
        "callback_failed",
        "7",
        "job.succeeded",
    )
    error = orjson.loads(letter["error"])
    assert (error["http_status"], error["message"]) == (
        status,
        f"127.0.0.1 answered the callback with HTTP status {status}.",
    )
    record = await stage.installation.record("default//j1")
    assert record["state"] == "succeeded", "the job is unharmed"
    assert await stage.redis.pttl(stage.keys.message(letter["callback"])) > 0


def test_the_last_try_comes_before_the_records_of_the_default_retention_end() -> None:
    assert sum(DELAYS_S) / 3600 == pytest.approx(17.6, abs=0.05)


async def test_a_gone_receiver_gets_no_more_callbacks(stage: Stage) -> None:
    stage.receiver.statuses = [410]
    await stage.run_batch(3, callback=stage.callback("batch.accepted", "job.succeeded"))
    first = await stage.outbox.take(1, lease_s=30)
    await stage.outbox.settle(first.messages[0], "gone", error={"message": "gone"})
    await stage.deliver()
    assert stage.receiver.requests == [], "the waiting message is given up as well"
    assert await stage.due() == {}
    assert len(await stage.installation.dead()) == 4


async def test_http_410_ends_the_callback_of_that_work_and_of_no_other(stage: Stage) -> None:
    stage.receiver.statuses = [410]
    await stage.run_batch(1, Failed(ERROR), callback=stage.callback())
    await stage.deliver()
    assert stage.count("gone") == 1
    (letter,) = await stage.installation.dead()
    assert letter["reason"] == "callback_failed"
    await stage.installation.submit({"batch": "b1"}, type="pixmill.retry.v1")
    (item,) = await stage.installation.claim()
    await stage.installation.queue.settle(item, DONE)
    await stage.run_job()
    await stage.deliver()
    assert stage.receiver.reported() == [("batch.finished", "b1"), ("job.succeeded", "j1")]


async def test_a_gone_receiver_brings_no_ended_record_back(stage: Stage) -> None:
    stage.receiver.statuses = [410]
    await stage.run_job()
    await stage.redis.delete(stage.keys.item("default//j1"))
    await stage.deliver()
    assert await stage.redis.exists(stage.keys.item("default//j1")) == 0


async def test_a_receiver_that_hangs_is_given_up_after_its_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hanging(*_: Any, timeout_s: float, **__: Any) -> int:
        assert timeout_s == 15.0
        raise OutsideError("hooks.example did not answer within 15 s.")

    monkeypatch.setattr("daemon.callbacks.delivery.post", hanging)
    await stage.run_job()
    await stage.deliver()
    assert stage.count("retry") == 1


async def test_an_address_that_turns_out_to_be_private_is_given_up_at_once(stage: Stage) -> None:
    await stage.run_job()
    await stage.deliver(stage.deliverer(Webhooks(SECRETS, ())))
    assert stage.receiver.requests == []
    (letter,) = await stage.installation.dead()
    assert "not a public address" in letter["error"]


async def test_a_replica_without_the_secret_leaves_it_to_a_later_try(stage: Stage) -> None:
    await stage.run_job()
    await stage.deliver(stage.deliverer(Webhooks({}, ["127.0.0.1"])))
    await stage.pass_time()
    await stage.deliver()
    assert stage.receiver.reported() == [("job.succeeded", "j1")]


# Deliveries by several replicas


async def test_of_two_replicas_one_has_a_message_until_its_lease_ends(stage: Stage) -> None:
    await stage.run_job()
    first = await stage.outbox.take(10, lease_s=LEASE_S)
    assert (await stage.outbox.take(10, lease_s=LEASE_S)).messages == []
    await stage.pass_time()
    again = await stage.outbox.take(10, lease_s=LEASE_S)
    assert [message.id for message in again.messages] == [message.id for message in first.messages]
    assert not await stage.outbox.settle(first.messages[0], "retry", delay_s=5), "its lease has ended"
    assert again.messages[0].attempts == 0, "a replica that went away costs no try"
    assert await stage.outbox.settle(again.messages[0], "retry", delay_s=5)


async def test_a_delivered_callback_is_over_for_every_replica(stage: Stage) -> None:
    await stage.run_job()
    (late,) = (await stage.outbox.take(10, lease_s=LEASE_S)).messages
    await stage.pass_time()
    (now,) = (await stage.outbox.take(10, lease_s=LEASE_S)).messages
    assert await stage.outbox.settle(late, "delivered")
    assert not await stage.outbox.settle(now, "retry", delay_s=5)
    assert await stage.due() == {}


async def test_a_settle_that_is_repeated_after_a_lost_reply_counts_once(stage: Stage) -> None:
    await stage.run_job()
    (message,) = (await stage.outbox.take(10, lease_s=LEASE_S)).messages
    assert await stage.outbox.settle(message, "failed", error=ERROR)
    assert not await stage.outbox.settle(message, "failed", error=ERROR)
    assert len(await stage.installation.dead()) == 1


async def test_a_message_whose_content_has_ended_is_a_dead_letter_and_not_forgotten(stage: Stage) -> None:
    await stage.run_job()
    (ident,) = await stage.due()
    await stage.redis.delete(stage.keys.message(ident))
    await stage.deliver()
    assert (await stage.due(), stage.count("failed")) == ({}, 1)
    (letter,) = await stage.installation.dead()
    assert (letter["reason"], letter["callback"]) == ("callback_failed", ident)


async def test_a_receiver_that_hangs_does_not_hold_up_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncio.Event()

    async def send(url: str, *_: Any, **__: Any) -> int:
        if "localhost" in url:
            await release.wait()
        return 204

    hanging = stage.callback() | {"url": "https://localhost.example/hook"}
    await stage.installation.submit(
        *({"id": f"h{k}", "prompt": "x", "callback": hanging} for k in range(MOST_A_HOST + 5)),
        {"id": "other", "prompt": "x", "callback": stage.callback()},
    )
    for item in await stage.installation.claim(100):
        await stage.installation.queue.settle(item, DONE)
    monkeypatch.setattr("daemon.callbacks.delivery.post", send)
    callbacks = stage.callbacks
    await callbacks.deliver_due()

    async def delivered() -> bool:
        return stage.count("delivered") == 1

    await eventually(delivered)
    release.set()
    await callbacks.drain()
    assert stage.count("delivered") == 1 + MOST_A_HOST
    assert len(await stage.due()) == 5, "the others of that receiver come later, and lost no try"
    assert {await stage.redis.hget(stage.keys.message(ident), "attempts") for ident in await stage.due()} == {
        b"0"
    }


async def test_the_part_delivers_by_itself_when_the_bell_rings(stage: Stage) -> None:
    rung = asyncio.Event()
    callbacks = Callbacks(stage.outbox, stage.webhooks, stage.metrics, rung=rung)
    pubsub = stage.redis.pubsub(ignore_subscribe_messages=True)
    await pubsub.subscribe(stage.keys.bell)
    running = asyncio.create_task(callbacks.run())
    await stage.run_job()

    async def reached() -> bool:
        message = await pubsub.get_message(timeout=0.1)
        return message is not None and message["data"] == b"callback"

    await eventually(reached)

    async def reported() -> bool:
        return bool(stage.receiver.requests)

    await eventually(reported)
    running.cancel()
    await asyncio.wait([running])
    await pubsub.aclose()


# Retries by people, and secrets


async def test_a_person_may_send_a_dead_callback_again(stage: Stage) -> None:
    stage.receiver.statuses = [410]
    await stage.run_job()
    await stage.deliver()
    letters = DeadLetters(stage.redis, stage.keys)
    (letter,) = await letters.newest(10)
    assert (letter.reason, letter.item) == ("callback_failed", "j1")
    assert await letters.retry(letter) == "resent"
    assert await letters.newest(10) == []
    assert len(await stage.due()) == 1


async def test_where_its_content_has_ended_the_retry_says_so(stage: Stage) -> None:
    stage.receiver.statuses = [410]
    await stage.run_job()
    await stage.deliver()
    letters = DeadLetters(stage.redis, stage.keys)
    (letter,) = await letters.newest(10)
    await stage.redis.delete(stage.keys.message(letter.original[b"callback"].decode()))
    assert await letters.retry(letter) == "ended"


async def test_neither_query_nor_secret_is_in_events_dead_letters_or_logs(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.receiver.statuses = [500, 410]
    await stage.run_job(callback=stage.callback(query="?key=planted-query"))
    await stage.deliver()
    await stage.pass_time()
    await stage.deliver()
    printed = capsys.readouterr()
    reported = orjson.dumps([await stage.installation.events(), await stage.installation.dead()]).decode()
    for text in (printed.out, printed.err, reported, *(body.decode() for _, body in stage.receiver.requests)):
        assert "planted-query" not in text
        assert KEY.decode() not in text
        assert base64.b64encode(KEY).decode() not in text
    assert "a callback was given up" in printed.out + printed.err


async def test_when_all_is_delivered_no_key_of_a_callback_is_left(stage: Stage) -> None:
    await stage.run_batch(3, callback=stage.callback("job.succeeded", "batch.finished"))
    names = await stage.redis.keys("pixmill:message:*")
    assert len(names) == 4
    for name in names:
        assert 17.6 * 3600 < await stage.redis.ttl(name) < 24 * 3600
    await stage.deliver()
    assert await stage.redis.keys("pixmill:message:*") == []
    assert await stage.redis.exists(stage.keys.outbox) == 0


async def test_a_lack_of_this_machine_costs_a_message_no_try(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def starved(*_: object, **__: object) -> int:
        raise OutsideError("It could not be reached.") from OSError(errno.EMFILE, "Too many open files")

    await stage.run_job()
    with monkeypatch.context() as machine:
        machine.setattr("daemon.callbacks.delivery.post", starved)
        for _ in range(len(DELAYS_S) + 1):
            await stage.deliver()
            await stage.pass_time()
    await stage.deliver()
    assert (stage.count("delivered"), stage.count("failed")) == (1, 0)
