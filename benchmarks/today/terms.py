"""The batches of the benchmark: an account's terms, the pictures of a seed, and the least time that they need."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from benchmarks.limiter.oracle import greedy_slots
from benchmarks.limiter.provider import Rule
from limiter.quota.quota import Quota, parse_quota

SHORTEST_LEASE_S = 5.0  # a busy machine may stand still for longer than a shorter one
Draw = Callable[[random.Random], float]


@dataclass(frozen=True)
class Terms:
    """The limits of an account, how long its pictures take, and the constants of its callers; times in seconds."""

    name: str
    short: str
    title: str
    service_s: Draw  # of one picture
    in_flight: int
    pictures: int = 100
    count: int | None = None  # pictures in any `window_s`; None: no such limit
    window_s: float = 60.0
    tasks: bool = False  # a call is answered at once by the name of its task, which is polled
    lost_replies: float = 0.0  # the part of the pictures whose first reply never comes, on a bad day
    busy_retry_s: float | None = None  # the Retry-After of "too many at once"; None: no refusal names a wait
    way_s: float = 0.005  # to the provider, at most

    timeout_s: float = 60.0  # after which a caller gives a call up
    pause_s: float = 2.0  # the sleep of those who sleep between calls
    poll_s: float = 2.0  # between two polls of a hand-made client
    backoff_s: float = 2.0  # the first wait of a back-off, which doubles
    longest_backoff_s: float = 60.0
    lease_s: float = 15.0  # Pixmill's
    kill_after_s: float = 5.0  # half of the pictures are there, and the next calls run
    restart_s: float = 5.0  # until a killed service runs again

    @property
    def quota(self) -> Quota:
        """The account as Pixmill's configuration describes it."""
        rate = {} if self.count is None else {"images": f"{self.count}/{self.window_s:g}s"}
        return parse_quota(self.name, {**rate, "in_flight": self.in_flight})

    def scaled(self, factor: float, pictures: int) -> Terms:
        """The same account with all times divided, for fewer pictures. A process starts as slowly as before."""
        return replace(
            self,
            pictures=pictures,
            service_s=lambda dice: self.service_s(dice) / factor,
            window_s=self.window_s / factor,
            busy_retry_s=None if self.busy_retry_s is None else self.busy_retry_s / factor,
            timeout_s=self.timeout_s / factor,
            pause_s=self.pause_s / factor,
            poll_s=self.poll_s / factor,
            backoff_s=self.backoff_s / factor,
            longest_backoff_s=self.longest_backoff_s / factor,
            lease_s=max(SHORTEST_LEASE_S, self.lease_s / factor),
            kill_after_s=self.kill_after_s / factor,
        )


def _lognormal(dice: random.Random) -> float:
    """Ten seconds in the mean; none so long that its caller would give it up."""
    sigma = 0.5
    return min(50.0, 10 * dice.lognormvariate(-sigma * sigma / 2, sigma))


ACCOUNTS = (
    Terms(
        "window",
        "20 a minute, 4 at a time",
        "20 pictures a minute, 4 at a time; a call answers with its picture after about 10 s",
        _lognormal,
        in_flight=4,
        count=20,
        lost_replies=0.02,
        busy_retry_s=5.0,
    ),
    Terms(
        "hunyuan",
        "Hunyuan, 1 at a time",
        "Hunyuan: 1 at a time; a call begins a task of 8 to 12 s, which is polled",
        lambda dice: dice.uniform(8, 12),
        in_flight=1,
        tasks=True,
    ),
)


SCALE, SMALL = 10.0, 40  # of the batches in real time


def small(account: str, pictures: int = SMALL) -> Terms:
    """An account's terms for real time: ten times as fast, for fewer pictures."""
    (terms,) = (terms for terms in ACCOUNTS if terms.name == account)
    return terms.scaled(SCALE, pictures)


@dataclass(frozen=True)
class Batch:
    """The pictures of a seed: how long each one takes whenever it is made, and whose first reply is lost."""

    terms: Terms
    seconds: Sequence[float]
    lost: frozenset[int]

    @classmethod
    def of(cls, terms: Terms, seed: int, *, bad_day: bool) -> Batch:
        """The same pictures for every strategy."""
        dice = random.Random(f"{terms.name} {seed}")
        seconds = [terms.service_s(dice) for _ in range(terms.pictures)]
        lost = dice.sample(range(terms.pictures), round(terms.lost_replies * terms.pictures))
        return cls(terms, seconds, frozenset(lost if bad_day else ()))

    def prompt(self, key: str, picture: int) -> str:
        """The prompt from which the simulator reads its time. No prompt of another account contains its beginning."""
        return f"{self.name(key, picture)} takes {self.seconds[picture]:.3f} s"

    def name(self, key: str, picture: int) -> str:
        """The beginning of the prompt."""
        return f"{key}/{picture};"

    @property
    def in_order_s(self) -> float:
        """A sender in the order of the list has them then, if each call starts as soon as both limits allow."""
        return _in_order_s(self.terms.in_flight, self.terms.count, self.terms.window_s, tuple(self.seconds))

    @property
    def optimum_s(self) -> float:
        """No sender has all pictures sooner, whatever the order."""
        return least_s(self.seconds, self.terms.in_flight, self.terms.count, self.terms.window_s)


@lru_cache
def _in_order_s(in_flight: int, count: int | None, window_s: float, seconds: tuple[float, ...]) -> float:
    rules = [Rule("in_flight", in_flight)]
    if count is not None:
        rules.append(Rule("images", count, window_s))
    slots = greedy_slots(rules, [(1, one_s) for one_s in seconds])
    return max(map(sum, zip(slots, seconds, strict=True)))


def least_s(seconds: Sequence[float], in_flight: int, count: int | None, window_s: float) -> float:
    """A lower bound of the makespan, in seconds from an idle start.

    For each m, the last m calls to start do so in or after the window of the first of them. They are m pictures, so
    they need the work of the m shortest ones at least, on all places, and the longest of those is among them.
    """
    ordered = sorted(seconds)
    least, work_s = 0.0, 0.0
    for m, longest_s in enumerate(ordered, 1):
        work_s += longest_s
        starts_s = 0.0 if count is None else (len(ordered) - m) // count * window_s
        least = max(least, starts_s + max(work_s / in_flight, longest_s))
    return least
