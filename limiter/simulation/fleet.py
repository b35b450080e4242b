"""Simulates a fleet in virtual time: the real scripts, with a provider that enforces its quota.

A day of quota, or a thousand replicas, takes seconds, because the clock jumps from event to event. Hand-made strategies
without a limiter run on the same simulated provider.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import redis.asyncio

from limiter.limiter import Limiter
from limiter.permit import Later, Permit
from limiter.quota.limits import IN_FLIGHT
from limiter.quota.quota import Bucket, FixedWindow, InFlight, Limit, Quota, Window
from limiter.slots import Slots
from limiter.waits import Recalls

START_US: Final = 1_795_000_000_000_000
HORIZON_S: Final = 2.0  # how far ahead a replica reserves, as the daemon's dispatchers do

Event = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """The parameters of a simulation. Times in seconds; the delay to the provider varies by `jitter_s`."""

    quotas: tuple[Quota, ...]
    jobs: int
    replicas: int = 1
    workers: int = 16  # coroutines of each replica
    latency_s: tuple[float, float] = (2.0, 4.0)
    jitter_s: float = 0.005
    retry_after_s: float = 1.0  # the Retry-After of the provider's 429
    seed: int = 0

    @property
    def optimum_s(self) -> float:
        """The least makespan that the quotas allow, with calls of mean latency."""
        service_s = sum(self.latency_s) / 2
        return max((quota.optimum_s(self.jobs, service_s) for quota in self.quotas), default=service_s)


@dataclass(slots=True)
class Report:
    """The result of a strategy. `utilisation` is the optimum as a share of the makespan."""

    strategy: str
    jobs: int = 0
    done: int = 0  # fewer than `jobs`: it gave up
    makespan_s: float = 0.0
    calls: int = 0
    throttled: int = 0
    requests: int = 0  # calls of the limiter
    optimum_s: float = 0.0

    @property
    def utilisation(self) -> float:
        if self.done < self.jobs:
            return 0.0
        return self.optimum_s / self.makespan_s if self.makespan_s else 1.0


class Timeline:
    """Events in order of time. Every script and every actor takes `now_us` as the time."""

    def __init__(self) -> None:
        self.now_us = START_US
        self._events: list[tuple[int, int, Event]] = []
        self._order = itertools.count()

    def at(self, us: int, event: Event) -> None:
        """Run `event` at a time; events of the same time run in the order of their calls."""
        heapq.heappush(self._events, (max(us, self.now_us), next(self._order), event))

    def after(self, seconds: float, event: Event) -> None:
        self.at(self.now_us + round(seconds * 1e6), event)

    async def run(self) -> None:
        while self._events:
            self.now_us, _, event = heapq.heappop(self._events)
            await event()


class Provider:
    """Enforces every limit on arrival, as a real one does: sliding windows, buckets, true calls in flight."""

    def __init__(self, limits: Sequence[Limit], timeline: Timeline) -> None:
        self._timeline = timeline
        self._limits = limits
        self._arrivals: dict[Limit, deque[int]] = {limit: deque() for limit in limits}
        self._tokens: dict[Limit, tuple[float, int]] = {}
        self._running = 0

    def admits(self) -> bool:
        """One call arrives now; False is a 429, which uses no quota."""
        if not all(self._has_room(limit) for limit in self._limits):
            return False
        for limit in self._limits:
            self._charge(limit)
        self._running += 1
        return True

    def ended(self) -> None:
        self._running -= 1

    def _has_room(self, limit: Limit) -> bool:
        now = self._timeline.now_us
        match limit:
            case Window(count, period_us) | FixedWindow(count, period_us):
                sliding = isinstance(limit, Window)
                oldest = now - period_us + 1 if sliding else now - now % period_us
                arrivals = self._arrivals[limit]
                while arrivals and arrivals[0] < oldest:
                    arrivals.popleft()
                return len(arrivals) < count
            case Bucket():
                return self._tokens_of(limit) >= 1 - 1e-9
            case InFlight(count):
                return self._running < count
        return True

    def _charge(self, limit: Limit) -> None:
        if isinstance(limit, Window | FixedWindow):
            self._arrivals[limit].append(self._timeline.now_us)
        elif isinstance(limit, Bucket):
            self._tokens[limit] = (self._tokens_of(limit) - 1, self._timeline.now_us)

    def _tokens_of(self, limit: Bucket) -> float:
        tokens, since = self._tokens.get(limit, (float(limit.burst), self._timeline.now_us))
        return min(
            float(limit.burst), tokens + (self._timeline.now_us - since) * limit.count / limit.period_us
        )


@dataclass
class Run:
    """One strategy on one scenario: the jobs left, the counts, and the ends of calls."""

    scenario: Scenario
    strategy: str
    timeline: Timeline = field(default_factory=Timeline)

    def __post_init__(self) -> None:
        limits = [limit for quota in self.scenario.quotas for limit in quota.limits]
        self.provider = Provider(limits, self.timeline)
        self.random = random.Random(self.scenario.seed)  # noqa: S311 - a simulation, no secrets
        self.todo = self.scenario.jobs
        self.report = Report(self.strategy, self.scenario.jobs, optimum_s=self.scenario.optimum_s)

    def send(self, ended: Event, refused: Event) -> None:
        """Send one call now: it arrives a little later, and is then made or refused."""

        async def arrive() -> None:
            self.report.calls += 1
            if not self.provider.admits():
                self.report.throttled += 1
                await refused()
                return
            self.timeline.after(self.random.uniform(*self.scenario.latency_s), end)

        async def end() -> None:
            self.provider.ended()
            self.report.done += 1
            self.report.makespan_s = (self.timeline.now_us - START_US) / 1e6
            await ended()

        self.timeline.after(self.random.uniform(0, self.scenario.jitter_s), arrive)


async def simulate(client: redis.asyncio.Redis, prefix: str, scenario: Scenario) -> Report:
    """Run Pixmill's limiter on `client`; no other program may use the keys under `prefix`."""
    run = Run(scenario, "pixmill")
    limiter = Limiter(client, prefix, clock=lambda: run.timeline.now_us)
    fleet = _Fleet(run, limiter)
    for replica in range(scenario.replicas):
        run.timeline.at(START_US, fleet.dispatcher(replica))
    await run.timeline.run()
    return run.report


class _Fleet:
    """Replicas that request one permit at a time, as the daemon's dispatchers do."""

    def __init__(self, run: Run, limiter: Limiter) -> None:
        self._run = run
        self._limiter = limiter
        self._recalls = Recalls(lambda: run.timeline.now_us / 1e6)
        self._free = [run.scenario.workers] * run.scenario.replicas
        self._parked: deque[Event] = deque()

    def dispatcher(self, replica: int) -> Event:
        """Requests permits as long as there are jobs and free workers."""
        slots = Slots(self._limiter, self._recalls, str(replica), "simulated")

        async def request() -> None:
            run = self._run
            if run.todo <= 0 or not self._free[replica]:
                await slots.leave()
                return  # if jobs are left, the end of one of its calls starts it again
            run.report.requests += 1
            reply = await slots.request(run.scenario.quotas, horizon_s=HORIZON_S)
            if isinstance(reply, Later):
                if reply.bound.cause == IN_FLIGHT:
                    self._parked.append(request)
                else:
                    run.timeline.after(slots.retry_s(reply), request)
                return
            self._free[replica] -= 1
            run.todo -= 1
            run.timeline.at(
                run.timeline.now_us + reply.wait_us, self._call(replica, slots.take(reply).permit, request)
            )

        return request

    def _call(self, replica: int, permit: Permit, request: Event) -> Event:
        async def leave() -> None:
            was_full = not self._free[replica]
            self._free[replica] += 1
            if permit.leased:
                await self._limiter.release(permit)
                # The bell: all replicas that wait for a place look, and the first one finds it.
                while self._parked:
                    self._run.timeline.at(self._run.timeline.now_us, self._parked.popleft())
            if was_full:
                self._run.timeline.at(self._run.timeline.now_us, request)

        async def refused() -> None:
            self._run.todo += 1
            for quota in self._run.scenario.quotas:
                await self._limiter.penalise(
                    quota,
                    retry_after_s=self._run.scenario.retry_after_s,
                    reason="rate_limited",
                    permit=permit,
                )
            await leave()
            self._run.timeline.at(self._run.timeline.now_us, request)

        async def send() -> None:
            self._run.send(leave, refused)
            self._run.timeline.at(self._run.timeline.now_us, request)

        return send
