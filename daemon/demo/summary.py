"""The figures of a demo run: pure arithmetic on the provider's own books, and the sentences that report it.

The makespan is the sender's whole time: from just before the batch is sent until its last picture is stored, so that
reading, queueing, storing and settling all count. The optimum is the least time that the quota allows a sender which
needs no time for any of this. Utilisation is the optimum as a share of the makespan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from limiter.quota.quota import InFlight, Quota, Window
from pixmill.records.records import ItemView


@dataclass(frozen=True, slots=True)
class Failure:
    """An item without a picture: its id, and the provider's sentence."""

    id: str
    message: str
    http_status: int | None = None
    charged: str | None = None

    @classmethod
    def of(cls, item: ItemView) -> Failure:
        """From the record of an item that did not succeed."""
        error = item.error or {}
        message = str(error.get("message") or f"it is {item.state}")
        return cls(item.id, message, error.get("http_status"), error.get("charged"))

    def __str__(self) -> str:
        facts = [f"HTTP {self.http_status}"] if self.http_status is not None else []
        facts += [f"charged: {self.charged}"] if self.charged is not None else []
        return f"{self.message} ({', '.join(facts)})" if facts else self.message


@dataclass(frozen=True, slots=True)
class Books:
    """The provider's own record of the run, which knows nothing of the sender."""

    calls: int
    throttled: int  # answers 429
    billed: int  # pictures
    billed_again: int  # pictures beyond the first for one prompt
    most_in_window: int  # pictures admitted in any period of the quota's length
    most_in_flight: int
    service_s: float  # mean over the calls that made a picture; a refused one is answered at once

    @classmethod
    def of(cls, ledger: Mapping[str, Any], window_s: float) -> Books:
        """The figures of the simulator's `/simulator/ledger?entries`, with its fullest period of `window_s`."""
        billed = Counter[str]()
        for call in ledger["entries"]:
            billed[call["prompt"]] += call["billed"]
        return cls(
            calls=ledger["calls"],
            throttled=ledger["statuses"].get("429", 0),
            billed=billed.total(),
            billed_again=sum(max(0, pictures - 1) for pictures in billed.values()),
            most_in_window=ledger["max_in_window"][f"{window_s:g}"],
            most_in_flight=ledger["max_in_flight"],
            service_s=mean_service_s(ledger["entries"]),
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """One run under `quota`, which has a strict window of pictures and a number of calls in flight."""

    pictures: int
    failures: tuple[Failure, ...]
    expected_failures: frozenset[str]
    makespan_s: float
    quota: Quota
    books: Books

    @property
    def rows(self) -> int:
        return self.pictures + len(self.failures)

    @property
    def last_call_s(self) -> float:
        """The least time from the first call to the last one: the rate's part of the optimum."""
        return self.quota.optimum_s(self.rows)

    @property
    def optimum_s(self) -> float:
        """The least time that the quota allows for one call a row, each as long as the mean one was.

        It counts rows, not calls, so a superfluous call does not improve the utilisation.
        """
        return self.quota.optimum_s(self.rows, self.books.service_s)

    @property
    def utilisation(self) -> float:
        """The optimum as a share of the makespan."""
        return self.optimum_s / self.makespan_s if self.makespan_s > 0 else 0.0

    @property
    def paid_twice(self) -> int:
        """Pictures that were billed and are not stored, or were billed again."""
        return max(self.books.billed_again, self.books.billed - self.pictures)

    @property
    def problems(self) -> list[str]:
        """A sentence for each broken promise. A 429 breaks none: it costs time, and the call is made again."""
        failed = {failure.id for failure in self.failures}
        paid_twice = _counted(self.paid_twice, "picture")
        missing, spared = sorted(failed - self.expected_failures), sorted(self.expected_failures - failed)
        return [
            *(f"{item} has no picture, and should have one." for item in missing),
            *(f"{item} has a picture, and should have been refused." for item in spared),
            *([f"The provider billed {paid_twice} for nothing."] if self.paid_twice else []),
        ]

    def headline(self) -> str:
        """One line for the contact sheet."""
        count, period_s, _ = self._limits()
        facts = [
            f"{_counted(self.pictures, 'picture')} in {self.makespan_s:.1f} s, {self.utilisation:.0%} of the pace that "
            f"{count} per {period_s:g} s allows",
            f"{self.books.throttled or 'no'} 429",
            f"{self.paid_twice or 'nothing'} paid twice",
        ]
        return "  ·  ".join(facts)

    def lines(self) -> list[str]:
        """The run in words."""
        count, period_s, in_flight = self._limits()
        books = self.books
        again = "; those calls were made again" if books.throttled else ""
        waste = f"{self.paid_twice} PAID FOR NOTHING" if self.paid_twice else "nothing was paid twice"
        return [
            f"{_counted(self.pictures, 'picture')} made, {len(self.failures)} failed.",
            *(f"  {failure.id}: {failure}" for failure in self.failures),
            f"{self.makespan_s:.1f} s from handing over the batch to the last stored picture; under {count} per "
            f"{period_s:g} s and {in_flight} in flight no sender can count on less than {self.optimum_s:.1f} s:",
            f"  call {self.rows} may arrive {self.last_call_s:.1f} s after the first one, and a call takes "
            f"{books.service_s:.1f} s on average.",
            f"Utilisation {self.utilisation:.1%}: that least time as a share of the time it took.",
            f"429 answers, as the provider counted them: {books.throttled}{again}. Its fullest {period_s:g} s: "
            f"{_counted(books.most_in_window, 'picture')} (quota {count}); at most "
            f"{_counted(books.most_in_flight, 'call')} in flight (quota {in_flight}).",
            f"The provider billed {_counted(books.billed, 'picture')}, {self.pictures} are stored: {waste}.",
            *(f"NOT AS PROMISED: {problem}" for problem in self.problems),
        ]

    def _limits(self) -> tuple[int, float, int]:
        """Pictures, the seconds of their period, and calls in flight."""
        window, in_flight = self.quota.limit(Window), self.quota.limit(InFlight)
        assert window is not None  # noqa: S101 - the demo's quota has both
        assert in_flight is not None  # noqa: S101
        return window.count, window.period_us / 1e6, in_flight.count

    def as_dict(self) -> dict[str, Any]:
        """The same figures for `--json`."""
        count, period_s, in_flight = self._limits()
        return {
            "as_promised": not self.problems,
            "problems": self.problems,
            "rows": self.rows,
            "pictures": self.pictures,
            "failed": [asdict(failure) for failure in self.failures],
            "expected_failures": sorted(self.expected_failures),
            "makespan_seconds": round(self.makespan_s, 3),
            "optimum_seconds": round(self.optimum_s, 3),
            "utilisation": round(self.utilisation, 4),
            "quota": {"images": count, "window_seconds": period_s, "in_flight": in_flight},
            "provider": {
                "calls": self.books.calls,
                "answers_429": self.books.throttled,
                "most_images_in_window": self.books.most_in_window,
                "most_in_flight": self.books.most_in_flight,
                "mean_service_seconds": round(self.books.service_s, 3),
                "billed": self.books.billed,
            },
            "paid_twice": self.paid_twice,
        }


def mean_service_s(calls: Iterable[Mapping[str, Any]]) -> float:
    """How long a call that was billed took the provider on average; 0 if there was none."""
    times: Sequence[float] = [
        call["ended_at_s"] - call["at_s"]
        for call in calls
        if call["billed"] and call["ended_at_s"] is not None
    ]
    return sum(times) / len(times) if times else 0.0


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
