"""Quotas as a provider enforces them: on arrival, for each API key, all parts at once or not at all.

Clocks are injected; nothing here sleeps.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from providers.simulator.settings import Bucket, Rate, SimulatorSettings

Clock = Callable[[], float]  # monotonic seconds

_TOKEN_ROUNDING = 1e-6
# An earlier arrival may be handled after so many later ones.
_CHARGES_IN_ANY_ORDER = 50


@dataclass(frozen=True, slots=True)
class Refusal:
    """The quota that refused a call, and the time until a call could pass (a guess for calls in flight)."""

    quota: str  # "requests", "images" or "in_flight"
    retry_after_s: float


class SlidingWindow:
    """Never more than `count` in any period of `window_s`: a unit comes back one period after its use."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._arrivals: deque[tuple[float, int]] = deque()
        self._used = 0

    def wait_s(self, now_s: float, cost: int) -> float:
        """0 if `cost` fits now, else the seconds until it does."""
        self._forget(now_s)
        excess = self._used + cost - self._rate.count
        if excess <= 0:
            return 0.0
        for arrived_s, units in self._arrivals:
            excess -= units
            if excess <= 0:
                return arrived_s + self._rate.window_s - now_s
        return self._rate.window_s  # more than a whole window holds

    def add(self, now_s: float, cost: int) -> None:
        """Count an arrival."""
        # An earlier arrival may be handled later.
        insort(self._arrivals, (now_s, cost))
        self._used += cost

    def left(self, now_s: float) -> int:
        """The cost that would still fit now."""
        self._forget(now_s)
        return max(0, self._rate.count - self._used)

    def _forget(self, now_s: float) -> None:
        # The same sum as in `wait_s`: a caller that waits exactly that long is let in.
        while self._arrivals and self._arrivals[0][0] + self._rate.window_s <= now_s:
            self._used -= self._arrivals.popleft()[1]


class TokenBucket:
    """Holds `burst` tokens at most and gains them at an even rate; a unit takes one."""

    def __init__(self, bucket: Bucket) -> None:
        self._burst = bucket.burst
        self._per_s = bucket.rate.count / bucket.rate.window_s
        self._level, self._level_at_s = float(bucket.burst), -math.inf
        self._charges: list[tuple[float, int]] = []  # since then

    def wait_s(self, now_s: float, cost: int) -> float:
        """0 if `cost` fits now and leaves enough for later arrivals that were counted already, else the seconds."""
        level, at_s, least = self._level, self._level_at_s, math.inf
        for charged_s, units in sorted([*self._charges, (now_s, cost)]):
            level = min(self._burst, level + (charged_s - at_s) * self._per_s) - units
            at_s, least = charged_s, min(least, level)
        return 0.0 if least > -_TOKEN_ROUNDING else -least / self._per_s

    def add(self, now_s: float, cost: int) -> None:
        """Count an arrival."""
        insort(self._charges, (now_s, cost))
        if len(self._charges) > _CHARGES_IN_ANY_ORDER:
            charged_s, units = self._charges.pop(0)
            gained = (charged_s - self._level_at_s) * self._per_s
            self._level = min(self._burst, self._level + gained) - units
            self._level_at_s = charged_s

    def left(self, now_s: float) -> int:
        """The cost that would still fit now."""
        costs = range(1, self._burst + 1)
        return next((cost - 1 for cost in costs if self.wait_s(now_s, cost)), self._burst)


class KeyQuotas:
    """The quotas of one API key."""

    def __init__(self, settings: SimulatorSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        limits = (("requests", settings.requests), ("images", settings.images))
        self._rates = {name: _enforced(limit) for name, limit in limits if limit is not None}
        self.in_flight = 0

    def admit(self, images: int) -> Refusal | None:
        """Take the cost of a call for `images` pictures, and its place in flight; or return why not.

        After None, the caller owes one `leave`.
        """
        now_s = self._clock()
        costs = {"requests": 1, "images": images}
        refusal = self._refusal(now_s, costs)
        if refusal is None:
            self.in_flight += 1
            for name, rate in self._rates.items():
                rate.add(now_s, costs[name])
        return refusal

    def left(self, quota: str) -> int | None:
        """The rest of `quota`, "requests" or "images"; None: it has no limit."""
        rate = self._rates.get(quota)
        return None if rate is None else rate.left(self._clock())

    def leave(self) -> None:
        """The call is over."""
        self.in_flight -= 1

    def _refusal(self, now_s: float, costs: dict[str, int]) -> Refusal | None:
        waits = {name: rate.wait_s(now_s, costs[name]) for name, rate in self._rates.items()}
        longest = max(waits, key=lambda name: waits[name], default=None)
        if longest is not None and waits[longest] > 0:
            return Refusal(longest, waits[longest])
        if self._settings.in_flight is not None and self.in_flight >= self._settings.in_flight:
            return Refusal("in_flight", self._settings.latency_s[0])
        return None


def _enforced(limit: Rate | Bucket) -> SlidingWindow | TokenBucket:
    return TokenBucket(limit) if isinstance(limit, Bucket) else SlidingWindow(limit)
