"""Tasks, for wires that accept a call at once and finish it later: polled by name, paid for, picked up by address.

A task holds its place in flight until the task ends, however soon its call was answered, and whether or not the
answer arrived.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.simulator.drawing import CONTENT_TYPES, Drawing
from providers.simulator.engine import Engine, QuotaExceededError
from providers.simulator.faults import OF_TASKS, Fault, FaultKind
from providers.simulator.ledger import Call, Ledger, digest
from providers.simulator.quotas import Clock, KeyQuotas

_KEPT_TASKS = 10_000
_NOT_A_PICTURE = b"this is no picture"

T = TypeVar("T")


class TaskState(StrEnum):
    """Where a task stands. The last three are its end."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    MODERATED = "moderated"  # the picture was made, and is not handed out


class Charge(StrEnum):
    """When a provider takes its money: for every task that it accepts, or for those that end in a picture."""

    ACCEPTED = "accepted"
    DONE = "done"


@dataclass(slots=True, eq=False)
class Task:
    """One accepted task. `number` is its name on the wire, of digits only; `key` is a digest."""

    number: str
    key: str
    drawing: Drawing
    call: Call
    charge: Charge
    fault: Fault | None
    state: TaskState = TaskState.WAITING
    told: bool = False  # a poll has told the address of its picture
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ended(self) -> bool:
        """Whether it holds its place in flight no longer."""
        return self.state in (TaskState.DONE, TaskState.FAILED, TaskState.MODERATED)


@dataclass(frozen=True, slots=True)
class _Kept:
    data: bytes = field(repr=False)
    content_type: str
    signature: str
    until_s: float


class Tasks:
    """The tasks of all wires, and the pictures that they ended in."""

    def __init__(self, engine: Engine, clock: Clock = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()
        self.routes = [Route("/simulator/pictures/{name}", self._get_picture, methods=["GET"])]
        self.reset()

    def reset(self) -> None:
        """Forget every task. Those that still run end unseen, in the old books."""
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._pictures: OrderedDict[str, _Kept] = OrderedDict()
        self._poll_quotas: dict[str, KeyQuotas] = {}

    async def aclose(self) -> None:
        """Stop what runs."""
        running = list(self._running)
        for work in running:
            work.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def accept(self, call: Call, key: str, drawing: Drawing, *, charge: Charge) -> Task:
        """Take the call's quota and begin its task; raises QuotaExceededError.

        From here on the task ends the call in the ledger; for a refused call that stays with the wire.
        """
        with ExitStack() as slot:
            slot.enter_context(self._engine.admitted(call, key))
            fault = self._engine.faults.take_of(call.prompt, OF_TASKS)
            task = Task(_new_number(), digest(key.encode()), drawing, call, charge, fault)
            call.task = task.number
            if charge is Charge.ACCEPTED:
                call.billed = 1
            _keep(self._tasks, task.number, task, _KEPT_TASKS)
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
        if task is None or task.key != digest(key.encode()):
            return None
        if task.fault is not None and task.fault.kind is FaultKind.TASK_LOST:
            return None
        return task

    def picture_url(self, task: Task, request: Request) -> str:
        """Where the picture of a task that is done can be fetched for `picture_ttl_s`, signed as storage does."""
        name = _name(task)
        signature = self._pictures[name].signature if name in self._pictures else "gone"
        return f"{request.base_url}simulator/pictures/{name}?q-signature={signature}"

    def renew(self, task: Task) -> None:
        """Give the picture of a task that is done another address, if the one that a poll has told has expired."""
        name = _name(task)
        kept = self._pictures.get(name)
        if task.told and kept is not None and kept.until_s <= self._clock():
            until_s = self._clock() + self._engine.settings.picture_ttl_s
            self._pictures[name] = replace(kept, signature=secrets.token_hex(20), until_s=until_s)
        task.told = True

    async def _run(self, task: Task, slot: ExitStack, ledger: Ledger) -> None:
        pictures, kind = self._pictures, task.fault.kind if task.fault else None
        with slot:
            try:
                task.state = TaskState.RUNNING
                if kind is FaultKind.TASK_STUCK:
                    await asyncio.Event().wait()
                data = await self._engine.work(task.drawing)
                if kind is FaultKind.TASK_FAILED:
                    task.state = TaskState.FAILED
                elif kind is FaultKind.TASK_MODERATED:
                    task.state = TaskState.MODERATED
                else:
                    self._hand_out(task, data, pictures)
            finally:
                ledger.end(task.call)
        task.over.set()

    def _hand_out(self, task: Task, data: bytes, pictures: OrderedDict[str, _Kept]) -> None:
        kind = task.fault.kind if task.fault else None
        dead = kind is FaultKind.URL_EXPIRED
        kept = _Kept(
            _NOT_A_PICTURE if kind is FaultKind.NOT_A_PICTURE else data,
            CONTENT_TYPES[task.drawing.format],
            secrets.token_hex(20),
            self._clock() + (0.0 if dead else self._engine.settings.picture_ttl_s),
        )
        _keep(pictures, _name(task), kept, self._engine.settings.kept_pictures)
        task.call.billed = 1
        task.state = TaskState.DONE

    async def _get_picture(self, request: Request) -> Response:
        kept = self._pictures.get(request.path_params["name"])
        if kept is None:
            return _storage_error(404, "NoSuchKey", "The specified key does not exist.")
        if kept.until_s <= self._clock():
            return _storage_error(403, "AccessDenied", "Request has expired.")
        if not secrets.compare_digest(kept.signature, request.query_params.get("q-signature", "")):
            return _storage_error(403, "SignatureDoesNotMatch", "The signature does not match.")
        return Response(kept.data, media_type=kept.content_type)


def _keep(kept: OrderedDict[str, T], name: str, value: T, limit: int) -> None:
    kept[name] = value
    while len(kept) > limit:
        kept.popitem(last=False)


def _new_number() -> str:
    return str(10**18 + secrets.randbelow(9 * 10**18))


def _name(task: Task) -> str:
    return f"{task.number}.{task.drawing.format}"


def _storage_error(status: int, code: str, message: str) -> Response:
    """As object stores answer: XML, also to clients that want a picture."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(text, status, media_type="application/xml")
