"""How a wire with tasks takes a call and answers a poll: faults, checks, quotas and books, in the provider's order.

What the answers look like is each wire's own business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from providers.simulator.drawing import Drawing
from providers.simulator.engine import Engine, QuotaExceededError
from providers.simulator.faults import AT_THE_DOOR, CHARGED, TO_SUBMITS, Fault, FaultKind
from providers.simulator.ledger import Call
from providers.simulator.misbehaviour import CutResponse, HangingResponse, broken_answer
from providers.simulator.tasks import Charge, Task, Tasks


class Answers(Protocol):
    """The answers of one wire."""

    beginning: bytes  # of an answer that is cut off

    def refusal(self, kind: FaultKind, retry_after_s: float | None = None) -> Response:
        """A call or a poll is turned away: kinds at the door, `moderation`, `server_error` or `empty`."""
        ...

    async def accepted(self, task: Task, request: Request) -> Response: ...

    def progress(self, task: Task, request: Request) -> Response: ...

    def unknown_task(self) -> Response: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """A call that asks for a picture. `drawing` is asked for when the call is taken; `problem` refuses it."""

    request: Request
    body: bytes = field(repr=False)
    key: str = field(repr=False)
    prompt: str
    problem: Response | None
    drawing: Callable[[], Drawing]


class TaskDesk:
    """One wire's way to the tasks."""

    def __init__(self, engine: Engine, tasks: Tasks, answers: Answers, charge: Charge) -> None:
        self._engine = engine
        self._tasks = tasks
        self._answers = answers
        self._charge = charge

    async def submit(self, submit: Submit) -> Response:
        """Take the call, or turn it away."""
        ledger = self._engine.ledger
        call = ledger.arrive(submit.key, submit.prompt, submit.body, 1)
        try:
            response = await self._taken(submit, call)
        finally:
            if not call.admitted:  # else its task ends it
                ledger.end(call)
        call.status = 0 if isinstance(response, HangingResponse | CutResponse) else response.status_code
        return response

    async def poll(self, request: Request, key: str, number: str) -> Response:
        """How the key's task of that name stands."""
        try:
            task = self._tasks.poll(number, key)
        except QuotaExceededError as error:
            return self._throttled(error)
        fault = self._engine.faults.take_for_poll(task.call.prompt if task else "")
        if fault is not None and fault.kind is FaultKind.SLOW_POLL:
            await asyncio.sleep(fault.delay_s)
        elif fault is not None:
            return await self._fault(fault, request)
        return self._answers.unknown_task() if task is None else self._answers.progress(task, request)

    async def _taken(self, submit: Submit, call: Call) -> Response:
        faults, answers = self._engine.faults, self._answers
        if fault := faults.take_of(submit.prompt, AT_THE_DOOR):
            return answers.refusal(fault.kind, fault.retry_after_s)
        if submit.problem is not None:
            return submit.problem
        if self._engine.moderated(submit.prompt):
            return answers.refusal(FaultKind.MODERATION)
        fault = faults.take_of(submit.prompt, TO_SUBMITS)
        if fault is not None and fault.kind not in CHARGED:
            return await self._fault(fault, submit.request)
        try:
            task = self._tasks.accept(call, submit.key, submit.drawing(), charge=self._charge)
        except QuotaExceededError as error:
            return self._throttled(error)
        if fault is not None:
            return await self._fault(fault, submit.request)
        return await answers.accepted(task, submit.request)

    async def _fault(self, fault: Fault, request: Request) -> Response:
        broken = await broken_answer(fault.kind, request, beginning=self._answers.beginning)
        return broken or self._answers.refusal(fault.kind, fault.retry_after_s)

    def _throttled(self, error: QuotaExceededError) -> Response:
        in_flight = error.refusal.quota == "in_flight"
        kind = FaultKind.CONCURRENCY if in_flight else FaultKind.RATE_LIMIT
        told = self._engine.settings.send_retry_after
        return self._answers.refusal(kind, max(0.001, error.refusal.retry_after_s) if told else None)
