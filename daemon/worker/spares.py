"""Knows which accounts serve the queue of a route that several accounts serve, and which of them are down.

An account is down while this replica cannot reach it, and while one of its quotas is paused until a person resumes it.
Each account has a dispatcher, and a permit comes before a claim. So of equals the account with the earliest slot takes
the next item, by its own calendar, and one that has no slot takes none. A spare serves while all before it are down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence

import structlog
from redis.exceptions import ResponseError

from daemon.accounts.routes import Route, Routes
from daemon.broker.loops import run_forever
from daemon.queue.messages import Serving
from daemon.queue.queue import Queue
from limiter import Limiter, QuotaState

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
LOOK_ASIDE_EVERY_S = 5.0  # where no route is shared: only a configuration before this one left items aside


class Account:
    """One of the accounts that serve the queue of `line`, through its own route."""

    def __init__(self, line: Route, route: Route, before: Sequence[Account]) -> None:
        self.line = line.name
        self.route = route
        self.paused: str | None = None  # the quota that a person must resume
        self._before = before  # empty for an account that serves at all times
        self._all: Sequence[Account] = ()
        self._differs = (route.provider.name, route.model) != (line.provider.name, line.model)

    @property
    def is_spare(self) -> bool:
        """Whether it serves only while others are down."""
        return bool(self._before)

    @property
    def down(self) -> str | None:
        """The reason why it serves nothing now, for people; else None."""
        return self.route.unreachable or (f"quota:{self.paused}.paused" if self.paused else None)

    @property
    def is_needed(self) -> bool:
        """Whether it may take items now."""
        return all(account.down for account in self._before)

    @property
    def name(self) -> str:
        """A name for its dispatcher, unlike that of any other."""
        return self.line if self.line == self.route.name else f"{self.line}/{self.route.name}"

    def serving(self) -> Serving:
        """Its part in a claim."""
        first = [account for account in self._all if not account.is_spare]
        down = {account.route.name for account in self._all if account.down}
        if all(account.down for account in first):
            down.add(self.line)  # for items that wait for any of the route's own accounts
        names = {self.line, *(account.route.name for account in self._all)}
        return Serving(self.route.name, sorted(names), sorted(down), self.is_spare, self._differs)

    @classmethod
    def of_line(cls, routes: Routes, name: str) -> list[Account]:
        """The accounts of a route, in the order in which its items go over."""
        line = routes[name]
        accounts = [cls(line, route, ()) for route in routes.first(name)]
        for route in routes.spares(name):
            accounts.append(cls(line, route, tuple(accounts)))
        for account in accounts:
            account._all = accounts  # noqa: SLF001 - its own class
        return accounts


class Watch:
    """Looks once a second which accounts serve, and queues again what waits aside for one that is not down.

    That may be an account that the configuration no longer has. The claimer of the item then decides.
    """

    def __init__(self, accounts: Collection[Account], limiter: Limiter, queue: Queue) -> None:
        self._accounts = accounts
        self._limiter = limiter
        self._queue = queue

    async def run(self) -> None:
        await run_forever("spares", self._step)

    async def _step(self) -> None:
        await self.look()
        await asyncio.sleep(LOOK_EVERY_S if self._accounts else LOOK_ASIDE_EVERY_S)

    async def look(self) -> None:
        """Look now."""
        if self._accounts:
            await self._look_at_quotas()
        down = {(account.line, name) for account in self._accounts for name in account.serving().down}
        for pair in await self._queue.asides():
            if pair in down:
                continue
            try:
                await self._queue.take_back([pair])
            except ResponseError as error:  # such as a foreign key in its place; the other lists go on
                log.error("items that wait aside stay there", route=pair[0], account=pair[1], why=str(error))  # noqa: TRY400

    async def _look_at_quotas(self) -> None:
        quotas = {quota.name: quota for account in self._accounts for quota in account.route.quotas}
        paused = _paused(await self._limiter.snapshot(list(quotas.values())))
        for account in self._accounts:
            before = account.down
            account.paused = next((each.name for each in account.route.quotas if each.name in paused), None)
            if account.down != before:
                log.warning("an account of a shared route changed", account=account.name, down=account.down)


def _paused(states: Iterable[QuotaState]) -> set[str]:
    return {state.quota for state in states if state.paused_reason is not None and state.pause_s is None}
