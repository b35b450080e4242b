"""The outcome of one batch, and the pictures that have come so far."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from benchmarks.today.virtual_time import now_s


@dataclass(frozen=True)
class Outcome:
    """One batch. `paid` are the calls that the provider charges, `refused` its 429s; the rest of `pictures` is lost."""

    account: str
    strategy: str
    bad_day: bool
    seed: int
    pictures: int
    made: int
    refused: int
    paid: int
    makespan_s: float  # until the last picture that came
    optimum_s: float
    in_order_s: float  # of a sender that loses no moment, in the order of the list
    clock: str = "virtual"

    @property
    def times_optimum(self) -> float:
        return self.makespan_s / self.optimum_s

    @property
    def lost(self) -> int:
        return self.pictures - self.made

    @property
    def paid_a_picture(self) -> float:
        """Paid calls for each picture that came."""
        return self.paid / self.made if self.made else float(self.paid)


@dataclass
class Made:
    """The pictures that came, and when the last one did. `half` is set when half of them are there."""

    wanted: int
    pictures: set[int] = field(default_factory=set)
    last_s: float = 0.0
    half: asyncio.Event = field(default_factory=asyncio.Event)
    all: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, picture: int) -> None:
        self.pictures.add(picture)
        self.last_s = now_s()
        if len(self.pictures) * 2 >= self.wanted:
            self.half.set()
        if len(self.pictures) == self.wanted:
            self.all.set()
