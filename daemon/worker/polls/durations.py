"""How long tasks take: the fleet learns it from every task that ends, and plans polls by it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import inf, log2
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from daemon.accounts.routes import Route
from daemon.broker.loops import PATIENCE_S
from daemon.telemetry.metrics import Metrics
from daemon.worker.polls.rhythm import KEPT, PollRule, Seen
from pixmill.contract import Job
from pixmill.records.keys import Keys

log = structlog.get_logger(__name__)

KEPT_S = 7 * 86_400  # after the last end
FRESH_S = 1.0  # no replica reads one list more often
UNKNOWN = PollRule()


class Durations:
    """The newest durations of each route, model and class of sizes: a list in Redis, newest first.

    All running tasks of a kind share one reading, which is at most a second old when a task begins. A reading that
    failed counts too, so tasks do not wait for one timeout after the other. A slow one ends beside the tasks.
    It is a hint. Without it tasks are polled as if nothing were known, so no error of Redis leaves this class.
    """

    def __init__(
        self, client: Redis, keys: Keys, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._keys = keys
        self._metrics = metrics
        self._clock = clock
        self._rules: dict[str, PollRule] = {}
        self._read_at: dict[str, float] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._absurd: set[str] = set()  # keys whose absurd rows were logged

    async def read(self, route: Route, job: Job) -> None:
        """Read what the fleet has learned, for `rule`, unless this replica has just read it.

        It takes PATIENCE_S at most: a task is polled though Redis does not answer.
        """
        key = self._key(route, job)
        reading = self._reading.get(key)
        if reading is None:
            if self._is_fresh(key):
                return
            reading = self._reading[key] = asyncio.create_task(self._read(key, route))
            reading.add_done_callback(lambda _: self._reading.pop(key))
        await asyncio.wait([reading], timeout=PATIENCE_S)

    async def _read(self, key: str, route: Route) -> None:
        try:
            rows: Any = self._client.lrange(key, 0, KEPT - 1)
            self._note(key, await rows)
        except RedisError as error:
            log.warning("could not read how long tasks take", route=route.name, error=str(error))
            self._read_at[key] = self._clock()

    def rule(self, route: Route, job: Job) -> Callable[[], PollRule]:
        """The plan for polling a task of this job: each call returns it by all that this replica knows then."""
        key = self._key(route, job)
        return lambda: self._rules.get(key, UNKNOWN)

    async def learn(self, route: Route, job: Job, end: Seen) -> None:
        """Keep how an end was noticed; drop one that teaches nothing."""
        if not end.is_sound:
            log.warning(
                "a task's duration is absurd, so it is not learned", route=route.name, seconds=end.high_s
            )
            return
        self._metrics.poll_gap_seconds.labels(route=route.name).observe(end.high_s - end.low_s)
        if end.is_vague:
            return
        key = self._key(route, job)
        pipe = self._client.pipeline(transaction=True)
        pipe.lpush(key, f"{end.low_s:.3f} {end.high_s:.3f}")
        pipe.ltrim(key, 0, KEPT - 1)
        pipe.pexpire(key, KEPT_S * 1000)
        reads = not self._is_fresh(key)
        if reads:
            self._read_at[key] = self._clock()  # many tasks may end at once: the others do not read
            pipe.lrange(key, 0, KEPT - 1)
        try:
            *_, rows = await pipe.execute()
            if reads:
                self._note(key, rows)
        except RedisError as error:
            log.warning("could not note how long a task took", route=route.name, error=str(error))

    def _note(self, key: str, rows: list[bytes]) -> None:
        ends = [end for end in map(_seen, rows) if end is not None and end.is_sound]
        if len(ends) < len(rows) and key not in self._absurd:
            self._absurd.add(key)
            log.warning(
                "durations in Redis are absurd; they are left out", key=key, rows=len(rows) - len(ends)
            )
        self._rules[key] = PollRule(ends)
        self._read_at[key] = self._clock()

    def _is_fresh(self, key: str) -> bool:
        return self._clock() - self._read_at.get(key, -inf) < FRESH_S

    def _key(self, route: Route, job: Job) -> str:
        return self._keys.durations(route.name, route.model, _size_class(job))


def _size_class(job: Job) -> str:
    """Sizes that take about the same time: the nearest power of two to their pixels. A ratio is a class of its own."""
    width, times, height = (job.size or "default").partition("x")
    return f"2^{round(log2(int(width) * int(height)))}" if times else width


def _seen(row: bytes) -> Seen | None:
    try:
        low_s, high_s = map(float, row.split())
    except ValueError:
        return None
    return Seen(low_s, high_s)
