"""The ways of today, each as a competent engineer writes it. The same coroutines run in virtual and in real time.

Every script keeps a picture in a file as soon as it has it, gives a call up after a minute and sends it again, and
tries a refused call until it gets through. After a 429 it waits as long as the provider names, and a moment more, so
that not all coroutines return at once; where the provider names no wait, exponential back-off with full jitter.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.today.account import Account, RefusedError
from benchmarks.today.terms import Terms

GROUP = 5
OF_A_PRODUCT = 5  # pictures
PROCESSES = 4


@dataclass(frozen=True)
class Script:
    """One process of a strategy. `made` keeps a picture."""

    terms: Terms
    account: Account
    made: Callable[[int], None]
    dice: random.Random

    async def make(self, picture: int) -> None:
        """Have a picture, however often it takes."""
        for tries in itertools.count():
            try:
                await self._once(picture)
            except RefusedError as refused:
                await asyncio.sleep(self._wait_s(refused.retry_after_s, tries))
            except TimeoutError:
                pass  # nobody knows whether it was made; it is sent again
            else:
                self.made(picture)
                return

    async def all_of(self, pictures: Sequence[int]) -> None:
        """Make pictures at the same time."""
        await asyncio.gather(*map(self.make, pictures))

    async def _once(self, picture: int) -> None:
        if not self.terms.tasks:
            await self.account.generate(picture)
            return
        task = await self.account.submit(picture)
        await asyncio.sleep(self.terms.poll_s)
        while not await self.account.is_over(task):
            await asyncio.sleep(self.terms.poll_s)

    def _wait_s(self, retry_after_s: float | None, tries: int) -> float:
        first_s = self.terms.backoff_s
        if retry_after_s is not None:
            return retry_after_s + self.dice.uniform(0, first_s)
        return self.dice.uniform(0, min(self.terms.longest_backoff_s, first_s * 2 ** min(tries, 16)))


async def serial(script: Script, pictures: Sequence[int]) -> None:
    for picture in pictures:
        await script.make(picture)


async def serial_with_pauses(script: Script, pictures: Sequence[int]) -> None:
    for picture in pictures:
        await script.make(picture)
        await asyncio.sleep(script.terms.pause_s)


async def groups(script: Script, pictures: Sequence[int]) -> None:
    for first in range(0, len(pictures), GROUP):
        await script.all_of(pictures[first : first + GROUP])


async def all_at_once(script: Script, pictures: Sequence[int]) -> None:
    await script.all_of(pictures)


async def semaphore(script: Script, pictures: Sequence[int]) -> None:
    places = asyncio.Semaphore(script.terms.in_flight)

    async def one(picture: int) -> None:
        async with places:
            await script.make(picture)

    await asyncio.gather(*map(one, pictures))


async def by_product(script: Script, pictures: Sequence[int]) -> None:
    products = [pictures[first : first + OF_A_PRODUCT] for first in range(0, len(pictures), OF_A_PRODUCT)]
    await asyncio.gather(*(serial(script, product) for product in products))


@dataclass(frozen=True)
class Strategy:
    """A way to make a batch. Each process has its share of the pictures; Pixmill's share a queue and have no `run`."""

    title: str
    sentence: str
    processes: int = 1
    run: Callable[[Script, Sequence[int]], Awaitable[None]] | None = None

    def share(self, process: int, pictures: int) -> Sequence[int]:
        """The pictures of one process: a part of the list without a gap, as products are."""
        return range(pictures * process // self.processes, pictures * (process + 1) // self.processes)


STRATEGIES: Mapping[str, Strategy] = {
    "serial": Strategy("serial", "One call after the other.", run=serial),
    "pauses": Strategy(
        "serial, 2 s sleep",
        "One call after the other, with a sleep of 2 s in between.",
        run=serial_with_pauses,
    ),
    "groups": Strategy(
        "groups of 5", "`gather` of five calls, and the next five when all of them are made.", run=groups
    ),
    "gather": Strategy("gather, retries", "One `gather` of all calls.", run=all_at_once),
    "semaphore": Strategy(
        "semaphore × 4 processes",
        "Four processes with a quarter of the pictures each, and in each of them a semaphore as large as the account's "
        "number of calls at a time.",
        PROCESSES,
        semaphore,
    ),
    "products": Strategy(
        "loop per product",
        "Products in parallel, and the five pictures of each product one after the other.",
        run=by_product,
    ),
    "pixmill-1": Strategy("Pixmill, 1 replica", "One worker."),
    "pixmill-4": Strategy("Pixmill, 4 replicas", "Four workers on one Redis.", PROCESSES),
}
