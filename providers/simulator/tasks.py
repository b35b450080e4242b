"""Tasks, for wires that accept a call at once and finish it later: polled by name, paid for, fetched by address.

A task holds its place in flight until it ends, even if its call was answered long before, or if the answer
was lost.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum

from starlette.requests import Request

from providers.simulator.drawing import Drawing
from providers.simulator.engine import Engine, QuotaExceededError
from providers.simulator.faults import OF_TASKS, FaultKind
from providers.simulator.ledger import Call, Ledger, digest
from providers.simulator.pictures import NOT_A_PICTURE, Pictures
from providers.simulator.quotas import KeyQuotas

_KEPT_TASKS = 10_000


class TaskState(StrEnum):
    """The states of a task. The last three are its end."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    MODERATED = "moderated"  # the picture was made, and is not handed out


ENDS = (TaskState.DONE, TaskState.FAILED, TaskState.MODERATED)


class Charge(StrEnum):
    """Which tasks a provider charges: every one that it accepts, or those that end in a picture."""

    ACCEPTED = "accepted"
    DONE = "done"


_BAD_ENDS = {FaultKind.TASK_FAILED: TaskState.FAILED, FaultKind.TASK_MODERATED: TaskState.MODERATED}


@dataclass(slots=True, eq=False)
class Task:
    """One accepted task. `number` is its name on the wire, of digits only; `key` is a digest."""

    number: str
    key: str
    drawing: Drawing
    call: Call
    fault: FaultKind | None
    state: TaskState = TaskState.WAITING
    reported: bool = False  # a poll has returned the address of its picture
    over: asyncio.Event = field(default_factory=asyncio.Event)  # its place in flight is free again

    @property
    def picture(self) -> str:
        """The name of its picture."""
        return f"{self.number}.{self.drawing.format}"


class Tasks:
    """The tasks of all wires."""

    def __init__(self, engine: Engine, pictures: Pictures) -> None:
        self._engine = engine
        self._pictures = pictures
        self._running: set[asyncio.Task[None]] = set()
        self.reset()

    def reset(self) -> None:
        """Forget every task. Running ones end in the old ledger."""
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._poll_quotas: dict[str, KeyQuotas] = {}
        self._pictures.reset()

    async def aclose(self) -> None:
        """Stop the running tasks."""
        running = list(self._running)
        for work in running:
            work.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def accept(self, call: Call, key: str, drawing: Drawing, *, charge: Charge) -> Task:
        """Take the call's quota and begin its task; raises QuotaExceededError.

        The task ends its call in the ledger. A refused call has no task, so its wire ends it.
        """
        with ExitStack() as slot:
            slot.enter_context(self._engine.admitted(call, key))
            fault = self._engine.faults.take(call.prompt, OF_TASKS)
            number = str(10**18 + secrets.randbelow(9 * 10**18))
            task = Task(number, digest(key.encode()), drawing, call, fault.kind if fault else None)
            call.task = number
            call.billed = int(charge is Charge.ACCEPTED)
            self._tasks[number] = task
            if len(self._tasks) > _KEPT_TASKS:
                self._tasks.popitem(last=False)
            work = asyncio.create_task(self._run(task, slot.pop_all(), self._engine.ledger))
        self._running.add(work)
        work.add_done_callback(self._running.discard)
        return task

    def poll(self, number: str, key: str) -> Task | None:
        """The key's task of that name, or None; raises QuotaExceededError. Polls have a rate of their own."""
        settings = replace(
            self._engine.settings, images=None, requests=self._engine.settings.polls, in_flight=None
        )
        quotas = self._poll_quotas.setdefault(key, KeyQuotas(settings, self._engine.arrived))
        ledger = self._engine.ledger
        ledger.poll()
        if refusal := quotas.admit(0):
            ledger.polls_refused += 1
            raise QuotaExceededError(refusal)
        quotas.leave()
        task = self._tasks.get(number)
        if task is not None and task.call.found_at_s is None:
            task.call.polls += 1
            task.call.found_at_s = self._engine.arrived() if task.state in ENDS else None
        known = task is not None and task.key == digest(key.encode())
        return task if known and task is not None and task.fault is not FaultKind.TASK_LOST else None

    def picture_url(self, task: Task, request: Request) -> str:
        """The address of the picture of a task that is done."""
        return self._pictures.url(task.picture, request)

    def renew(self, task: Task) -> None:
        """Give the picture another address, if a poll returned one that has expired."""
        if task.reported:
            self._pictures.renew(task.picture)
        task.reported = True

    async def _run(self, task: Task, slot: ExitStack, ledger: Ledger) -> None:
        with slot:
            try:
                task.state = TaskState.RUNNING
                if task.fault is FaultKind.TASK_STUCK:
                    await asyncio.Event().wait()
                data = await self._engine.work(task.drawing)
                state = _BAD_ENDS.get(task.fault, TaskState.DONE) if task.fault else TaskState.DONE
                if state is TaskState.DONE:
                    task.call.billed = 1
                    data = NOT_A_PICTURE if task.fault is FaultKind.NOT_A_PICTURE else data
                    dead = task.fault is FaultKind.URL_EXPIRED
                    self._pictures.keep(task.picture, data, dead=dead)
                task.state = state
            finally:
                ledger.end(task.call)
        task.over.set()
