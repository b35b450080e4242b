"""The simulator's books: every arrival and its outcome, as the provider saw them.

Times are monotonic seconds. API keys appear as short digests only.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

from providers.simulator.recorder import Recorded

_KEPT_REQUESTS = 1000
_KEPT_CALLS = 100_000


@dataclass(frozen=True, slots=True)
class SentFile:
    """A picture that came with a call: its name, and a digest of exactly its bytes."""

    name: str
    content_type: str
    size: int  # bytes
    sha256: str

    @classmethod
    def of(cls, name: str, content_type: str, data: bytes) -> SentFile:
        """The entry for `data`."""
        return cls(name, content_type, len(data), hashlib.sha256(data).hexdigest())


@dataclass(slots=True)
class Call:
    """One arrival. `status` is 0 until the answer, and stays 0 if there was none.

    `at_s` is the arrival of the request's last byte, by the kernel's stamp where there is one. Quotas count at this
    time. `handled_at_s` is the time at which the simulator came to the call. The difference is the simulator's own
    lateness; the sender has no part in it.
    """

    at_s: float
    key: str  # digest
    prompt: str
    request_hash: str
    images: int
    handled_at_s: float = 0.0
    admitted: bool = False  # got past the quotas
    refused: str = ""  # the quota that turned it away; a fault at the door is none
    task: str = ""  # the name of the task that it began
    status: int = 0
    billed: int = 0  # pictures charged
    code: str = ""
    ended_at_s: float | None = None
    polls: int = 0  # of its task, until one found the end
    found_at_s: float | None = None  # that poll
    files: tuple[SentFile, ...] = ()
    fields: dict[str, str] = field(default_factory=dict)  # of a form, beside its files
    cost: Decimal = Decimal(0)  # charged, in `currency`, on wires that report it
    currency: str = ""


class Ledger:
    """The latest arrivals."""

    def __init__(self, clock: Callable[[], float], arrived: Callable[[], float] | None = None) -> None:
        """`arrived` returns the arrival time of the request in hand; by default it is `clock`."""
        self._clock = clock
        self._arrived = arrived or clock
        self.calls: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self.in_flight = 0
        self.max_in_flight = 0
        self.polls = 0  # of tasks; polls are no calls
        self.requests: deque[Recorded] = deque(maxlen=_KEPT_REQUESTS)  # whole, if the settings say so
        self.polls_refused = 0  # of those, by their own quota
        self._polled_at_s: deque[float] = deque(maxlen=_KEPT_CALLS)

    def arrive(self, key: str, prompt: str, body: bytes, images: int) -> Call:
        """Write down an arrival; the wire fills in the rest."""
        call = Call(self._arrived(), digest(key.encode()), prompt, digest(body), images, self._clock())
        self.calls.append(call)
        return call

    def poll(self) -> None:
        """Write down a poll of a task."""
        self.polls += 1
        self._polled_at_s.append(self._arrived())

    def admit(self, call: Call) -> None:
        """The call got past the quotas and holds a slot until `end`."""
        call.admitted = True
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def end(self, call: Call) -> None:
        """The call, and the task that it began, are over."""
        call.ended_at_s = self._clock()
        if call.admitted:
            self.in_flight -= 1

    def max_in_window(self, window_s: float, *, key: str | None = None) -> int:
        """The most pictures that were admitted in any period of `window_s` (its end excluded)."""
        admitted = [call for call in self.calls if call.admitted and (key is None or call.key == key)]
        return max_in_window(((call.at_s, call.images) for call in admitted), window_s)

    def max_polls_in_window(self, window_s: float) -> int:
        """The most polls that arrived in any period of `window_s`, refused ones too."""
        return max_in_window(((at_s, 1) for at_s in self._polled_at_s), window_s)

    def calls_by_prompt(self) -> dict[str, int]:
        """The number of admitted calls by prompt: more than one is a repeated, perhaps paid, call."""
        return dict(Counter(call.prompt for call in self.calls if call.admitted))

    def statuses(self) -> dict[int, int]:
        """The number of calls by HTTP status; 0 stands for no answer."""
        return dict(Counter(call.status for call in self.calls))

    def billed(self) -> int:
        """Pictures charged."""
        return sum(call.billed for call in self.calls)

    def costs(self) -> dict[str, Decimal]:
        """Money charged, by currency."""
        costs: dict[str, Decimal] = {}
        for call in self.calls:
            if call.cost:
                costs[call.currency] = costs.get(call.currency, Decimal(0)) + call.cost
        return costs

    def summary(self, windows_s: Iterable[float] = (), polls_window_s: float | None = None) -> dict[str, Any]:
        """The figures as plain JSON."""
        return {
            "calls": len(self.calls),
            "admitted": sum(call.admitted for call in self.calls),
            "billed": self.billed(),
            "polls": self.polls,
            "costs": {currency: str(cost) for currency, cost in sorted(self.costs().items())},
            "polls_refused": self.polls_refused,
            "max_polls_in_window": None
            if polls_window_s is None
            else self.max_polls_in_window(polls_window_s),
            "statuses": {str(status): count for status, count in sorted(self.statuses().items())},
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "max_in_window": {f"{window_s:g}": self.max_in_window(window_s) for window_s in windows_s},
            "calls_by_prompt": self.calls_by_prompt(),
        }

    def entries(self) -> list[dict[str, Any]]:
        """Every call as plain JSON, in the order of arrival."""
        return [asdict(call) | {"cost": str(call.cost)} for call in self.calls]


def max_in_window(arrivals: Iterable[tuple[float, int]], window_s: float) -> int:
    """The largest sum of the costs of `(time, cost)` arrivals in any half-open period of `window_s`."""
    most = inside = 0
    recent: deque[tuple[float, int]] = deque()
    for at_s, cost in sorted(arrivals):
        while recent and recent[0][0] + window_s <= at_s:
            inside -= recent.popleft()[1]
        recent.append((at_s, cost))
        inside += cost
        most = max(most, inside)
    return most


def digest(data: bytes) -> str:
    """A short name for `data` that does not give it away."""
    return hashlib.sha256(data).hexdigest()[:12]
