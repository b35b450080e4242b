"""An installation in one process for tests: real scripts on a real server, a provider that follows a script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
from redis.asyncio import Redis

from daemon.accounts.feedback import AccountFeedback
from daemon.accounts.routes import Route, Routes
from daemon.callbacks.signing import Webhooks
from daemon.compat.studio import studio_types
from daemon.intake.acceptance import Acceptor
from daemon.intake.reader import Intake
from daemon.queue.bell import Bell
from daemon.queue.messages import Claimed
from daemon.queue.orders import Orders
from daemon.queue.outcomes import Outcome
from daemon.queue.queue import Queue
from daemon.settings import Settings
from daemon.storage.gate import StorageGate
from daemon.storage.object_store import ResultStore
from daemon.telemetry.metrics import Metrics
from daemon.worker.permits import CallPermits
from daemon.worker.pool import Pool
from daemon.worker.run import Run
from limiter import Limiter, Places, Recalls
from pixmill.broker.streams import read_new
from pixmill.records.keys import Keys
from providers.base import (
    NO_HOOKS,
    CallHooks,
    Capabilities,
    Generated,
    Pending,
    Picture,
    PollPlan,
    Request,
    Submitted,
)
from providers.errors import ErrorKind, ProviderError

WAIT_S = 10.0
LEASE_S = 15.0
COUNTS = ("attempts", "deliveries", "throttles", "crashes", "epoch", "queue_us", "throttled_us")
NO_WEBHOOKS = Webhooks({}, ())


def as_read(record: Mapping[bytes, bytes]) -> dict[str, str]:
    """A record as its readers take it: a count that it lacks is 0. Without a record it is empty."""
    found = {name.decode(): value.decode() for name, value in record.items()}
    return {**dict.fromkeys(COUNTS, "0"), **found} if found else {}


class ScriptedProvider:
    """Answers with `answer(request)`; remembers every call. Sizes of more than 4096 pixels a side are refused."""

    name = "scripted"

    def __init__(self, answer: Callable[[Request], Awaitable[Submitted | Generated]] | None = None) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.hooks = NO_HOOKS  # of the latest call
        self.polls: list[Submitted] = []
        self.says_when_polls_leave = True
        self.poll_answers: list[Pending | Generated | ProviderError] = []
        self.cancelled: list[Submitted] = []
        self.plan = PollPlan()
        self.behind: dict[str, bytes] = {}  # what addresses lead to; all others to nothing
        self.fetched: list[str] = []
        self.url_ttl_s: float | None = None

    def capabilities(self, model: str) -> Capabilities:
        return Capabilities("sync", 32000, 16, None, self.url_ttl_s, self.plan)

    def check(self, request: Request) -> None:
        if request.size == "8192x8192":
            raise ProviderError(
                ErrorKind.INVALID_REQUEST, "`size` may be at most 4096x4096 here.", field="size"
            )

    async def submit(
        self, request: Request, *, timeout_s: float, hooks: CallHooks = NO_HOOKS
    ) -> Submitted | Generated:
        self.requests.append(request)
        self.hooks = hooks
        if self.answer is None:
            raise AssertionError("this provider expects no call")
        return await self.answer(request)

    async def poll(self, submitted: Submitted, *, hooks: CallHooks = NO_HOOKS) -> Pending | Generated:
        self.polls.append(submitted)
        if hooks.before_send is not None and self.says_when_polls_leave:
            await hooks.before_send(None)
        answer = self.poll_answers.pop(0)
        if isinstance(answer, ProviderError):
            raise answer
        return answer

    async def cancel(self, submitted: Submitted) -> bool:
        self.cancelled.append(submitted)
        return True

    async def fetch(self, picture: Picture) -> bytes:
        if picture.data is not None:
            return picture.data
        self.fetched.append(picture.url or "")
        if picture.url not in self.behind:
            raise ProviderError(ErrorKind.RESULT_EXPIRED, "Nothing is there.", http_status=404)
        return self.behind[picture.url]

    async def aclose(self) -> None:
        return None


class Installation:
    """Intake and queue of one replica, driven step by step."""

    def __init__(
        self,
        redis: Redis,
        *,
        routes: tuple[str, ...] = ("default",),
        worker: str = "w1",
        webhooks: Webhooks = NO_WEBHOOKS,
        cap: int = 0,
    ) -> None:
        self.redis: Any = redis  # the client's answers are unions over protocols; here they are bytes
        self.keys = Keys("pixmill")
        self.provider = ScriptedProvider()
        self.routes = Routes([Route(name, self.provider, "model-1") for name in routes])
        self.queue = Queue(redis, self.keys, worker, max_backlog_per_tenant=cap)
        self.orders = Orders(redis, self.keys)
        self.metrics, self.webhooks = Metrics(), webhooks
        types = studio_types("studio")
        self.acceptor = Acceptor(self.queue, self.routes, webhooks, self.metrics.count_received)
        self.intake = Intake(redis, redis, self.queue, self.acceptor, self.metrics, types, lease_s=LEASE_S)

    def other(self, worker: str) -> Queue:
        """The same queue as another replica sees it."""
        return Queue(self.redis, self.keys, worker)

    async def add(self, data: object, **fields: str) -> str:
        """XADD, as a producer does; returns the entry's id."""
        raw = data if isinstance(data, (str, bytes)) else orjson.dumps(data)
        entry = await self.redis.xadd(self.keys.jobs, {"data": raw, **fields})
        return str(entry.decode())

    async def take_all(self) -> None:
        """Let the intake take everything that is in the stream now."""
        await self.intake.create_group()
        while entries := await read_new(self.redis, "intake", self.queue.worker, self.keys.jobs, 64):
            await self.intake.take(entries)

    async def submit(self, *payloads: Mapping[str, Any], **fields: str) -> None:
        for payload in payloads:
            await self.add(dict(payload), **fields)
        await self.take_all()

    async def batch(self, ident: str, items: int, **more: Any) -> None:
        payload = {"id": ident, "defaults": {"prompt": "x"}, "items": [{"id": f"i{k}"} for k in range(items)]}
        await self.submit({**payload, **more}, type="pixmill.batch.v1")

    async def claim(self, count: int = 1, route: str = "default") -> list[Claimed]:
        return (await self.queue.claim(route, count)).items

    async def record(self, uid: str) -> dict[str, str]:
        return as_read(await self.redis.hgetall(self.keys.item(uid)))

    async def group(self, gid: str) -> dict[str, str]:
        fields = await self.redis.hgetall(self.keys.group(gid))
        return {name.decode(): value.decode() for name, value in fields.items()}

    async def events(self, stream: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        rows = await self.redis.xrange(stream or self.keys.events)
        return [(fields[b"type"].decode(), orjson.loads(fields[b"data"])) for _, fields in rows]

    async def kinds(self) -> list[str]:
        return [kind for kind, _ in await self.events()]

    async def dead(self) -> list[dict[str, str]]:
        rows = await self.redis.xrange(self.keys.dead)
        return [
            {
                name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
                for name, value in fields.items()
            }
            for _, fields in rows
        ]


class Bench:
    """The parts of a replica around its pool of runs, all real; pictures go to memory, and the gate is open."""

    def __init__(
        self,
        queue: Queue,
        metrics: Metrics,
        execute: Callable[[Run], Awaitable[Outcome]],
        *,
        slots: int = 4,
    ) -> None:
        redis: Any = queue._client
        keys = queue.keys
        self.limiter = Limiter(redis, keys.prefix)
        self.accounts = AccountFeedback(redis, keys, self.limiter, metrics)
        self.bell = Bell(redis, keys.bell, Recalls(), Places(self.limiter))
        self.gate = open_gate(ResultStore.open("memory://"), self.bell)
        self.calls = CallPermits(
            self.limiter,
            queue,
            self.accounts,
            self.bell.recalls,
            self.bell.places,
            self.gate,
            lease_s=LEASE_S,
        )
        self.pool = Pool(queue, self.calls, metrics, self.bell, execute, slots=slots)


def open_gate(
    store: ResultStore, bell: Bell, sleep: Callable[[float], Awaitable[None]] | None = None
) -> StorageGate:
    """The gate of a store that has been found to work."""
    gate = StorageGate(store, bell, sleep=sleep)
    gate.why = None
    return gate


def worker_settings(redis_url: str, store: Path) -> Settings:
    """The settings of a replica with one route; its key is in the variable PLANTED."""
    return Settings.model_validate(
        {
            "redis": {"url": redis_url},
            "storage": {"url": f"file://{store}"},
            "metrics": {"listen": "127.0.0.1:0"},
            "credentials": {"main": {"provider": "openai", "api_key_env": "PLANTED"}},
            "routes": {"default": {"credential": "main", "model": "gpt-image-1"}},
        }
    )


async def eventually(check: Callable[[], Awaitable[Any]], timeout_s: float = WAIT_S) -> Any:
    """Ask until the answer is truthy; the answer. Fails with the last one after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = await check()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s; the last answer was {answer!r}")
        await asyncio.sleep(0.01)
