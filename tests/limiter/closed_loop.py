"""The closed loop of `adaptive` in virtual time: a sender that learns, and a provider that reveals only refusals.

The sender keeps an exact log as the limiter's scripts do, and calls `adaptive` where they do. Times are µs.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from tests.limiter.learning.model import (
    UNKNOWN,
    Learned,
    Refused,
    Served,
    allowed,
    due_us,
    gap_us,
    next_state,
    share,
)

S = 1_000_000

Kind = Literal["sliding", "fixed", "bucket"]
RetryAfter = Literal["none", "exact", "seconds"]


@dataclass(frozen=True)
class Scenario:
    """`changes` are (from second, true count); `external` is the share of the true quota that others use."""

    kind: Kind = "sliding"
    count: int = 60
    period_s: float = 10
    changes: tuple[tuple[float, int], ...] = ((20, 30),)
    last_s: float = 300
    capacity: int = 5
    counts_refused: bool = False
    retry_after: RetryAfter = "none"
    external: float = 0.0
    rtt_ms: tuple[float, float] = (20, 80)
    jitter_ms: float = 5
    ahead_s: float = 0.02
    # Without it a whole window may burst.
    spread: bool = True


@dataclass
class Outcome:
    """The result of a run: times in s, `levels` as (s, ppm), and the observations of the learning."""

    scenario: Scenario
    accepted: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    levels: list[tuple[float, int]] = field(default_factory=list)
    external: list[float] = field(default_factory=list)
    observations: list[Refused | Served] = field(default_factory=list)

    def refused_in(self, first_s: float, last_s: float) -> int:
        return sum(first_s <= at < last_s for at in self.refusals)

    def utilisation(self, first_s: float, last_s: float) -> float:
        """The share of the true quota that was used, by us and by others, between two times."""
        used = sum(first_s <= at < last_s for at in (*self.accepted, *self.external))
        return used / self._quota(first_s, last_s)

    def _quota(self, first_s: float, last_s: float) -> float:
        steps = [(0.0, self.scenario.count), *self.scenario.changes, (last_s, 0)]
        total = 0.0
        for (start_s, count), (end_s, _) in pairwise(steps):
            overlap_s = max(0.0, min(end_s, last_s) - max(start_s, first_s))
            total += overlap_s * count / self.scenario.period_s
        return total


class Provider:
    """Counts arrivals in a sliding or an aligned window, or drains a bucket; its quota changes with time."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._period = round(scenario.period_s * S)
        self._arrivals: deque[int] = deque()
        self._window, self._used = -1, 0
        self._tokens, self._at = float(scenario.capacity), 0

    def count(self, at: int) -> int:
        count = self._scenario.count
        for from_s, changed in self._scenario.changes:
            if at >= from_s * S:
                count = changed
        return count

    def arrive(self, at: int) -> int | None:
        """None if accepted, else after how many µs there will be room."""
        count = self.count(at)
        if self._scenario.kind == "bucket":
            return self._bucket(at, count)
        if self._scenario.kind == "fixed":
            window = at // self._period
            if window != self._window:
                self._window, self._used = window, 0
            full, wait = self._used >= count, (window + 1) * self._period - at
            if not full or self._scenario.counts_refused:
                self._used += 1
            return wait if full else None
        while self._arrivals and self._arrivals[0] + self._period <= at:
            self._arrivals.popleft()
        full = len(self._arrivals) >= count
        wait = self._arrivals[len(self._arrivals) - count] + self._period - at if full else 0
        if not full or self._scenario.counts_refused:
            self._arrivals.append(at)
        return wait if full else None

    def _bucket(self, at: int, count: int) -> int | None:
        rate = count / self._period
        self._tokens = min(self._scenario.capacity, self._tokens + (at - self._at) * rate)
        self._at = at
        if self._tokens < 1:
            return round((1 - self._tokens) / rate)
        self._tokens -= 1
        return None


def run(scenario: Scenario, seed: int) -> Outcome:
    """One saturated sender from 0 to `last_s`."""
    return _Loop(scenario, seed).run()


class _Loop:
    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.draw = random.Random(seed)
        self.provider = Provider(scenario)
        self.outcome = Outcome(scenario)
        self.period = round(scenario.period_s * S)
        self.span = self.period + min(max(self.period // 100, 5_000), 100_000)
        self.unit = share(1, scenario.count)
        self.log: list[int] = []
        self.rejected: list[int] = []
        self.paused = 0
        self.learned = Learned()
        self.events: list[tuple[int, int, Callable[[int], None]]] = []
        self.sequence = 0

    def at(self, when: int, what: Callable[[int], None]) -> None:
        self.sequence += 1
        heapq.heappush(self.events, (when, self.sequence, what))

    def run(self) -> Outcome:
        # Where in the provider's aligned windows it all begins is not known either.
        self.at(self.draw.randrange(self.period), self.request)
        if self.scenario.external:
            self.at(0, self.others)
        while self.events and self.events[0][0] < self.scenario.last_s * S:
            when, _, what = heapq.heappop(self.events)
            what(when)
        return self.outcome

    def others(self, now: int) -> None:
        rate = self.scenario.external * self.provider.count(now) / self.period
        if self.provider.arrive(now) is None:
            self.outcome.external.append(now / S)
        self.at(now + max(1, round(self.draw.expovariate(rate))), self.others)

    def request(self, now: int) -> None:
        """As acquire.lua: the earliest slot; a slot too far away is tried again later."""
        count, span = allowed(self.learned.level, self.scenario.count, self.span)
        slot = max(now, self.paused)
        if self.log and self.scenario.spread:
            slot = max(slot, self.log[-1] + gap_us(self.learned, count, span))
        if len(self.log) >= count:
            slot = max(slot, self.log[-count] + span)
        if slot - now > self.scenario.ahead_s * S:
            self.at(slot - round(self.scenario.ahead_s * S), self.request)
            return
        self.log.append(slot)
        if slot >= due_us(self.learned, self.period):
            used = share(self.between(self.log, slot - span, slot), self.scenario.count)
            self.learn(now, Served(slot, used, self.unit, self.period))
        self.at(slot, self.send)
        self.at(now + self.draw.randrange(500, 3_000), self.request)

    def send(self, slot: int) -> None:
        rtt = self.draw.uniform(*self.scenario.rtt_ms) * 1000
        late = self.draw.uniform(0, self.scenario.jitter_ms) * 1000
        self.at(slot + round(self.scenario.rtt_ms[0] * 500 + late), lambda now: self.arrive(now, slot, rtt))

    def arrive(self, now: int, slot: int, rtt: float) -> None:
        wait = self.provider.arrive(now)
        if wait is None:
            self.outcome.accepted.append(now / S)
            return
        self.outcome.refusals.append(now / S)
        self.at(now + round(rtt / 2), lambda now: self.penalise(now, slot, wait))

    def penalise(self, now: int, slot: int, wait: int) -> None:
        self.rejected.append(slot)
        self.rejected.sort()
        left = UNKNOWN
        pause = 0
        if self.scenario.retry_after != "none":
            pause = wait if self.scenario.retry_after == "exact" else -(-wait // S) * S
            left = share(self.accepted(now + pause - self.period, now), self.scenario.count)
        seen = Refused(
            now_us=now,
            sent_us=slot,
            newest_us=self.log[-1],
            used=share(self.accepted(slot - self.span, slot - 1), self.scenario.count),
            left=left,
            unit=self.unit,
            period_us=self.period,
        )
        self.paused = max(self.paused, now + pause)
        self.learn(now, seen)

    def learn(self, now: int, seen: Refused | Served) -> None:
        self.outcome.observations.append(seen)
        state = next_state(self.learned, seen)
        if state.level != self.learned.level:
            self.outcome.levels.append((now / S, state.level))
        self.learned = state

    def accepted(self, after: int, until: int) -> int:
        return max(0, self.between(self.log, after, until) - self.between(self.rejected, after, until))

    @staticmethod
    def between(slots: list[int], after: int, until: int) -> int:
        return bisect_right(slots, until) - bisect_right(slots, after)
