"""Pixmill in virtual time: the real limiter with its scripts on a real server, and the real rule of polls.

The queue is a model: a list that survives its workers, as the stream in Redis does. The work of the daemon around a
call takes no time here; `--real` shows what it costs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

import redis.asyncio

from benchmarks.today.account import Account, RefusedError
from benchmarks.today.terms import Terms
from benchmarks.today.valkey import Connection, Valkey
from benchmarks.today.virtual_time import now_s
from daemon.worker.polls.rhythm import KEPT, URGENT, PollRule, Seen
from limiter import Grant, Later, Limiter, Permit, Places, Recalls, Slots

PREFIX = "today"
START_US = 1_795_000_000_000_000
# As in daemon/worker/dispatcher.py, daemon/worker/run.py and daemon/maintenance/reclaimer.py.
HORIZON_S, LONGEST_WAIT_S, LOOK_EVERY_S = 2.0, 30.0, 1.0
GRACE_S = 5.0
RECLAIM_LOOK_S = 1.0
RESUMED_LOOK_S = 2.0  # between two polls of another worker's task


@dataclass(eq=False)
class Item:
    """A picture to make, and what its record holds."""

    picture: int
    permit: Permit | None = None
    task: str = ""


@dataclass
class Fleet:
    """Replicas that share a queue, an account and a server."""

    terms: Terms
    account: Account
    made: Callable[[int], None]
    server: Valkey
    queue: deque[Item]
    work: asyncio.TaskGroup
    ends: deque[Seen] = field(default_factory=lambda: deque(maxlen=KEPT))
    replicas: list[Replica] = field(default_factory=list)

    def start(self, replicas: int) -> None:
        """Start so many replicas."""
        self.server.heard = self._pass_on
        for number in range(replicas):
            self._add(f"replica{number}")

    def end(self) -> None:
        """Let all replicas vanish."""
        for replica in self.replicas:
            replica.die()

    async def kill(self, replica: int) -> None:
        """Kill a replica, start it again, and let the fleet take its items over when their leases have ended."""
        victim = self.replicas.pop(replica)
        orphans = victim.die()
        await asyncio.sleep(self.terms.restart_s)
        self._add(f"{victim.name}-again")
        await asyncio.sleep(max(0.0, self.terms.lease_s + RECLAIM_LOOK_S - self.terms.restart_s))
        for item in orphans:
            self.replicas[0].take_over(item)

    def _add(self, name: str) -> None:
        self.replicas.append(Replica(self, name))

    def _pass_on(self, message: str) -> None:
        for replica in self.replicas:
            replica.hear(message)


class Replica:
    """A dispatcher with its calls, as the daemon has them for one route."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.name = name
        self._fleet = fleet
        self._connection = Connection(fleet.server)
        self._limiter = Limiter(
            cast("redis.asyncio.Redis", self._connection),
            PREFIX,
            lease_s=fleet.terms.lease_s,
            clock=lambda: START_US + round(now_s() * 1e6),
        )
        self._quota = fleet.terms.quota
        self._recalls = Recalls(now_s)
        self._places = Places(self._limiter)
        self._slots = Slots(self._limiter, self._recalls, name, "today", self._places)
        self._items: set[Item] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._begin(self._dispatch())
        self._begin(self._heartbeat())

    def hear(self, message: str) -> None:
        """Take a message of the bell."""
        if not self._places.note(message):
            self._recalls.note(message)

    def die(self) -> list[Item]:
        """End without a word; returns the items that it leaves behind."""
        self._connection.is_cut = True
        for task in self._tasks:
            task.cancel()
        return sorted(self._items, key=lambda item: item.picture)

    def take_over(self, item: Item) -> None:
        """Go on with an item of a dead replica: poll its task, or send its call once more."""
        if item.task:
            self._begin(self._run(item))
        else:
            self._fleet.queue.appendleft(Item(item.picture))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._fleet.work.create_task(self._until_cut(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_cut(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except redis.ConnectionError:
            if not self._connection.is_cut:
                raise

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(self._fleet.terms.lease_s / 3)
            await self._limiter.renew([item.permit for item in self._items if item.permit])

    async def _dispatch(self) -> None:
        queue = self._fleet.queue
        while True:
            if not queue:
                await self._slots.leave()
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            reply = await self._slots.request((self._quota,), horizon_s=HORIZON_S, more=len(queue) > 1)
            if isinstance(reply, Later):
                await self._slots.pause(reply, LONGEST_WAIT_S)
            else:
                await self._start_at(reply)

    async def _start_at(self, grant: Grant) -> None:
        slot = await self._slots.wait(grant)
        if slot is None:
            return
        if self._fleet.queue:
            item = self._fleet.queue.popleft()
            item.permit = slot.permit
            self._begin(self._run(item))
        else:
            await self._limiter.give_back(slot.permit)

    async def _run(self, item: Item) -> None:
        self._items.add(item)
        try:
            await self._call(item)
        except RefusedError as refused:
            await self._penalise(refused, item)
            self._fleet.queue.appendleft(Item(item.picture))
        except TimeoutError:
            # The call may still run, so its place ends with its lease. `on_unknown_outcome = "retry_once"`.
            self._fleet.queue.appendleft(Item(item.picture))
        else:
            self._fleet.made(item.picture)
        finally:
            self._items.discard(item)

    async def _call(self, item: Item) -> None:
        assert item.permit is not None
        if not self._fleet.terms.tasks:
            await self._generate(item.picture)
        else:
            await self._task(item, item.permit)
        await self._places.release(item.permit)

    async def _generate(self, picture: int) -> None:
        try:
            await self._fleet.account.generate(picture)
        except TimeoutError:
            await asyncio.sleep(GRACE_S)
            raise

    async def _task(self, item: Item, permit: Permit) -> None:
        """Begin the item's task and poll it until it is over, or go on with the task of a dead replica."""
        account, ends = self._fleet.account, self._fleet.ends
        while item.task:
            await asyncio.sleep(RESUMED_LOOK_S)
            if await account.is_over(item.task):
                return
        item.task = await account.submit(item.picture)
        await self._limiter.submitted(permit, longest_s=self._fleet.terms.timeout_s)
        began_at, ran_s = now_s(), 0.0
        while True:
            await asyncio.sleep(began_at + PollRule(ends).next_s(ran_s, URGENT) - now_s())
            sent_s = now_s() - began_at
            if await account.is_over(item.task):
                ends.appendleft(Seen(ran_s, sent_s))
                return
            ran_s = sent_s

    async def _penalise(self, refused: RefusedError, item: Item) -> None:
        await self._limiter.penalise(
            self._quota,
            reason=refused.quota,
            retry_after_s=refused.retry_after_s,
            kind="concurrency" if refused.quota == "in_flight" else "rate",
            permit=item.permit,
        )
        if item.permit is not None:
            await self._places.release(item.permit)
