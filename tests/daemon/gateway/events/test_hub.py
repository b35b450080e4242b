"""The reader of all events: what waits for a listener is bounded, and waiters hear of each change or look again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar
from unittest import mock

import pytest
from redis.asyncio import Redis

from daemon.gateway.answering.problems import Problem
from daemon.gateway.events import hub as hubs
from daemon.gateway.events import listener as listeners
from daemon.gateway.events import replay
from daemon.gateway.events.frames import END, START, Burst, Event, Topic
from daemon.gateway.events.hub import EventHub
from daemon.gateway.events.response import SCOPE_ANSWER, SseResponse, Write
from daemon.gateway.events.stream import Ending, EventStream, Listening
from daemon.telemetry.http_metrics import HttpMetrics
from daemon.telemetry.metrics import ProcessMetrics
from pixmill.broker.connect import blocking_client
from providers.http.parts import SCOPE_WRITE
from tests.daemon.gateway.events.sse import KEYS, caught_up, publish
from tests.daemon.harness import eventually
from tests.servers import RedisServer

T = TypeVar("T")

TENANT = Topic("default")
SOON_S = 10.0


@pytest.fixture
async def hub(redis: Redis, redis_server: RedisServer) -> AsyncIterator[EventHub]:
    blocking = blocking_client(redis_server.url)
    hub = EventHub(redis, blocking, KEYS, HttpMetrics(ProcessMetrics().registry))
    await hub.start()
    yield hub
    await hub.stop()
    await blocking.aclose()


def live(hub: EventHub) -> AsyncGenerator[bytes, None]:
    return EventStream(hub, Listening(TENANT, KEYS.events, None)).frames()


def noted_in(found: list[T]) -> Callable[[T], bool]:
    """A writer that can always send."""

    def note(one: T) -> bool:
        found.append(one)
        return True

    return note


async def test_a_listener_that_is_too_slow_gets_a_resync_then_live_frames(
    hub: EventHub, redis: Redis
) -> None:
    frames = live(hub)
    assert (await anext(frames)).startswith(b"retry: ")
    reading = asyncio.create_task(anext(frames))
    await asyncio.sleep(0)
    await publish(redis, "b1", 0, 1)
    assert b'"number":0' in await reading
    await publish(redis, "b1", 1, listeners.QUEUE + 10)
    await caught_up(hub, redis)
    resync, _, left = (await anext(frames)).partition(b"\n\n")
    assert b"event: resync" in resync
    numbers = [int(part.split(b",")[0]) for part in left.split(b'"number":')[1:]]
    assert numbers == list(range(numbers[0], listeners.QUEUE + 11)), "what came after the loss is there"
    following = f"id: {resync.split(b' ')[1].split()[0].decode()}"
    assert following not in left.decode()
    await publish(redis, "b1", 1000, 1)
    assert b'"number":1000' in await anext(frames)
    await frames.aclose()


async def test_a_queue_that_overflows_during_the_replay_costs_no_event(hub: EventHub, redis: Redis) -> None:
    await publish(redis, "b1", 0, replay.PAGE + 10)
    listening = Listening(Topic("default", "b1"), KEYS.batch_events("b1"), START)
    frames = EventStream(hub, listening).frames()
    got = [await anext(frames), await anext(frames)]
    for first in range(replay.PAGE + 10, replay.PAGE + 1000, 330):
        await publish(redis, "b1", first, 330)
        await caught_up(hub, redis)
        got.append(await anext(frames))
    while f'"number":{replay.PAGE + 999}' not in got[-1].decode():
        got.append(await anext(frames))
    await frames.aclose()
    numbers = [int(part.split(b",")[0]) for part in b"".join(got).split(b'"number":')[1:]]
    assert numbers == list(range(replay.PAGE + 1000))


async def test_frames_that_wait_leave_together(hub: EventHub, redis: Redis) -> None:
    frames = live(hub)
    await anext(frames)
    reading = asyncio.create_task(anext(frames))
    await asyncio.sleep(0)
    await publish(redis, "b1", 0, 1)
    await reading
    await publish(redis, "b1", 1, 5)
    await caught_up(hub, redis)
    assert (await anext(frames)).count(b"event: batch.progress") == 5
    await frames.aclose()


async def test_frames_are_sent_at_once_unless_they_may_be_the_last_or_the_client_is_slow(
    hub: EventHub, redis: Redis
) -> None:
    at_once: list[bytes] = []
    takes = True

    def write(frames: bytes) -> bool:
        if takes:
            at_once.append(frames)
        return takes

    async def over() -> bool:
        return True

    ending = Ending(frozenset({"batch.finished"}), True, over)
    stream = EventStream(hub, Listening(TENANT, KEYS.events, None, ending=ending))
    stream.write_by(write)
    frames = stream.frames()
    await anext(frames)
    reading = asyncio.create_task(anext(frames))
    await asyncio.sleep(0)
    await publish(redis, "b1", 0, 3)
    await caught_up(hub, redis)
    assert b"".join(at_once).count(b"event: batch.progress") == 3
    assert not reading.done(), "no task had its turn"

    takes = False
    await publish(redis, "b1", 3, 1)
    assert b'"number":3' in await reading
    takes = True
    await publish(redis, "b1", 4, 1)
    await caught_up(hub, redis)
    assert b'"number":4' in await anext(frames), "what comes while nobody takes it, waits"

    reading = asyncio.create_task(anext(frames))
    await asyncio.sleep(0)
    await redis.xadd(KEYS.events, {"type": "batch.finished", "data": '{"tenant":"default","batch":"b1"}'})
    assert b"event: batch.finished" in await reading
    assert [frame async for frame in frames] == [END]
    assert b"".join(at_once).count(b"id: ") == 3


async def test_nothing_is_sent_at_once_before_what_waits(hub: EventHub) -> None:
    first, second = (Event((k, 0), "batch.progress", (TENANT,), b"%d" % k) for k in (1, 2))
    at_once: list[Burst] = []
    with hub.listen(TENANT) as listener:
        taking = asyncio.create_task(listener.take(lambda _: False))
        await asyncio.sleep(0)
        listener.put(Burst([first]))
        listener._at_once = noted_in(at_once)
        listener.put(Burst([second]))
        assert await taking == [first, second]
    assert at_once == []


async def test_five_hundred_waiters_hear_of_one_change(hub: EventHub, redis: Redis) -> None:
    async def wait() -> bool:
        async with hub.changes(Topic("default", "b1"), {"batch.progress"}) as changes:
            return await changes.next(SOON_S)

    waiting = [asyncio.create_task(wait()) for _ in range(500)]
    await asyncio.sleep(0)
    await publish(redis, "b2", 0, 1)
    await publish(redis, "b1", 0, 1, "other")
    await caught_up(hub, redis)
    assert not any(task.done() for task in waiting)
    await publish(redis, "b1", 0, 1)
    assert all(await asyncio.gather(*waiting))
    assert hub._subscribers == {}


async def test_a_change_between_two_waits_is_not_missed(hub: EventHub, redis: Redis) -> None:
    async with hub.changes(Topic("default", "b1")) as changes:
        await publish(redis, "b1", 0, 3)
        await caught_up(hub, redis)
        assert await changes.next(SOON_S)
        assert not await changes.next(0.01)


async def test_a_waiter_looks_again_though_it_hears_nothing(
    hub: EventHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "LOOK_AGAIN_S", (0.01, 0.02))
    async with hub.changes(Topic("default", "", "k1")) as changes:
        assert await changes.next(SOON_S)
        assert not await changes.next(0.001)
        assert not await changes.next(0)


async def test_a_stop_ends_every_wait_and_every_listener(hub: EventHub) -> None:
    frames = live(hub)
    await anext(frames)
    reading = asyncio.create_task(anext(frames, None))
    async with hub.changes(TENANT) as changes:
        waiting = asyncio.create_task(changes.next(SOON_S))
        await asyncio.sleep(0)
        await hub.stop()
        assert not await waiting
        assert not await changes.next(SOON_S)
    assert await reading is None
    with pytest.raises(Problem, match="stops"):
        hub.check()
    late = live(hub)
    assert [frame async for frame in late][1:] == []


async def test_an_event_costs_only_its_listeners(hub: EventHub, redis: Redis) -> None:
    with hub.listen(Topic("default", "b1")) as listener, hub.listen(Topic("default", "b2")) as other:
        await publish(redis, "b1", 0, 1)
        await listener.take()
        assert other._events == []


async def test_entries_that_are_no_events_stop_nothing(hub: EventHub, redis: Redis) -> None:
    with hub.listen(TENANT) as listener:
        for data in (
            "",
            "{",
            "[]",
            '"x"',
            '{"tenant":7}',
            '{"tenant":"default","job":[],"item":{},"batch":{}}',
            '{"tenant":"default","job":[]}',
        ):
            await redis.xadd(KEYS.events, {"type": "job.queued", "data": data})
        await redis.xadd(KEYS.events, {"other": "x"})
        await redis.xadd(KEYS.events, {"type": "a\nb", "data": '{"tenant":"default"}'})
        await redis.xadd(KEYS.events, {"type": "job.queued", "data": '{"tenant":\n"default","k":1}'})
        await caught_up(hub, redis)
        frames = [event.frame for event in await listener.take()]
    assert frames[-1].endswith(b'event: job.queued\ndata: {"tenant":"default","k":1}\n\n')
    assert all(frame.count(b"\n") == 4 for frame in frames)


class Client:
    """The other side of an answer: what it was sent, until it leaves."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, object]) -> None:
        if message["type"] == "http.response.body":
            self.sent.append(bytes(message["body"]))  # type: ignore[call-overload]


async def test_silence_is_broken_by_pings_until_the_client_leaves() -> None:
    client, ended = Client(), asyncio.Event()

    async def silent() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            ended.set()

    answering = asyncio.create_task(
        SseResponse(silent(), ping_s=0.01).run(client.receive, client.send)  # type: ignore[arg-type]  # its messages are plain
    )

    async def pinged() -> bool:
        return client.sent.count(b": ping\n\n") >= 3

    await eventually(pinged)
    assert client.sent[0] == b"first"
    client.left.set()
    await asyncio.wait_for(answering, SOON_S)
    assert ended.is_set()


async def test_frames_that_are_sent_at_once_need_no_ping() -> None:
    client, at_once = Client(), list[bytes]()
    found = list[Write]()

    async def silent() -> AsyncGenerator[bytes, None]:
        yield b"first"
        await asyncio.Event().wait()

    answer = SseResponse(silent(), write_by=found.append)
    scope = {
        "extensions": {SCOPE_WRITE: noted_in(at_once)},
        SCOPE_ANSWER: mock.Mock(),
    }
    await answer(scope, client.receive, client.send)  # type: ignore[arg-type]  # its messages are plain
    answering = asyncio.create_task(answer.run(client.receive, client.send))  # type: ignore[arg-type]  # as above

    async def begun() -> bool:
        return client.sent == [b"first"]

    await eventually(begun)
    answer._sent_at = 0.0
    assert found[0](b"next")
    assert answer._sent_at > 0.0, "silence begins anew"
    assert (client.sent, at_once) == ([b"first"], [b"next"])
    client.left.set()
    await asyncio.wait_for(answering, SOON_S)


async def test_frames_that_end_end_the_answer() -> None:
    client = Client()

    async def short() -> AsyncGenerator[bytes, None]:
        yield b"only"

    await SseResponse(short()).run(client.receive, client.send)  # type: ignore[arg-type]  # its messages are plain
    assert client.sent == [b"only", b""]

    async def alone() -> bool:
        return asyncio.all_tasks() == {asyncio.current_task()}

    await eventually(alone)


async def test_while_nobody_listens_events_wait_and_a_listener_ends_that_at_once(
    hub: EventHub, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "UNHEARD_S", 600.0)
    await publish(redis, "b1", 0, 1)
    await caught_up(hub, redis)
    await publish(redis, "b1", 1, 1)
    frames = live(hub)
    assert (await anext(frames)).startswith(b"retry: ")
    assert b'"number":1' in await asyncio.wait_for(anext(frames), SOON_S), "it was not read before"
    await frames.aclose()


async def test_a_full_page_is_read_on_though_nobody_listens(
    hub: EventHub, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "UNHEARD_S", 600.0)
    async with redis.pipeline(transaction=True) as pipe:
        for number in range(3 * hubs.PAGE + 1):
            pipe.xadd(KEYS.events, {"type": "other", "data": str(number)})
        await pipe.execute()
    await caught_up(hub, redis)
