"""The way of a call through a wire: key, books, faults, checks, quotas, and an answer in the provider's words.

`CallWire` answers with the picture, as OpenAI does. `TaskWire` answers with a receipt, and its tasks are polled.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from providers.shared.answers import json_object
from providers.simulator.drawing import Drawing
from providers.simulator.engine import Engine, QuotaExceededError
from providers.simulator.faults import AFTER_THE_DOOR, AT_THE_DOOR, CHARGED, TO_SUBMITS, FaultKind
from providers.simulator.ledger import Call, SentFile
from providers.simulator.misbehaviour import broken_answer, in_its_words
from providers.simulator.tasks import Charge, Task, Tasks

Fields = dict[str, Any]
Handler = Callable[[Request], Awaitable[Response]]
Check = tuple[bool, *tuple[str, ...]]  # whether it holds, and the arguments of `_invalid` if it does not


class Wire(ABC):
    """One or more endpoints of a provider. Subclasses hold its words."""

    beginning: bytes  # of an answer that is cut off
    routes: Sequence[BaseRoute]

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @abstractmethod
    def refusal(self, kind: FaultKind, wait_s: float | None = None) -> Response:
        """The answer for a call or a poll that is turned away, or for a spoilt one; by default a server error."""

    @abstractmethod
    def _invalid(self, message: str, code: str = "", param: str = "") -> Response:
        """The answer for a request that is not valid; not every wire has codes and names the parameter."""

    @abstractmethod
    def _checks(self, fields: Fields) -> Iterator[Check]:
        """The checks of a request, in their order."""

    @abstractmethod
    def _drawing(self, fields: Fields) -> Drawing:
        """The picture that a valid request describes."""

    @abstractmethod
    async def _accept(self, request: Request, fields: Fields, call: Call, key: str) -> Response:
        """Serve a call that no fault turned away at the door; raises QuotaExceededError."""

    async def submit(self, request: Request) -> Response:
        """The handler of a route that orders a picture."""
        body = await request.body()
        key = self._key(request, body)
        if isinstance(key, Response):
            return key
        fields = self._fields(request, body)
        if fields is None:
            return self._invalid("The body is not a JSON object.")
        return await self._taken(request, body, fields, key)

    def _keyed(self, handler: Callable[[Request, str], Awaitable[Response]]) -> Handler:
        """A route's `handler` for calls with a known key, which is its second argument."""

        async def handle(request: Request) -> Response:
            key = self._key(request, b"")
            return key if isinstance(key, Response) else await handler(request, key)

        return handle

    async def _taken(self, request: Request, body: bytes, fields: Fields, key: str) -> Response:
        engine, ledger = self._engine, self._engine.ledger
        call = ledger.arrive(key, self._prompt(fields), body, self._images(fields))
        call.files = self._files(fields)
        if call.files:
            # Tests read the fields of a sent form here.
            call.fields = {name: value for name, value in fields.items() if isinstance(value, str)}
        try:
            if fault := engine.faults.take(call.prompt, AT_THE_DOOR):
                response = in_its_words(self.refusal(fault.kind, fault.retry_after_s), fault)
            else:
                response = await self._accept(request, fields, call, key)
        except QuotaExceededError as error:
            response = self._throttled(error)
        finally:
            if not call.task:  # else its task ends it
                ledger.end(call)
        call.status = response.status_code
        return response

    def _key(self, request: Request, body: bytes) -> str | Response:  # noqa: ARG002 (some wires sign the body)
        """The key of the account, or the answer for a call without a known one."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return key if scheme.lower() == "bearer" and self._engine.knows(key) else self.refusal(FaultKind.AUTH)

    def _fields(self, request: Request, body: bytes) -> Fields | None:  # noqa: ARG002 (a form has headers)
        return json_object(body)

    def _prompt(self, fields: Fields) -> str:
        return str(fields.get("prompt") or "")

    def _images(self, fields: Fields) -> int:  # noqa: ARG002 (most wires make one)
        return 1

    def _files(self, fields: Fields) -> tuple[SentFile, ...]:  # noqa: ARG002 (most wires need not show them)
        """The pictures that came along."""
        return ()

    def _problem(self, fields: Fields) -> Response | None:
        broken = next((details for holds, *details in self._checks(fields) if not holds), None)
        return None if broken is None else self._invalid(*broken)

    def _throttled(self, error: QuotaExceededError) -> Response:
        kind = FaultKind.CONCURRENCY if error.refusal.quota == "in_flight" else FaultKind.RATE_LIMIT
        wait_s = max(0.001, error.refusal.retry_after_s) if self._engine.settings.send_retry_after else None
        return self.refusal(kind, wait_s)


class CallWire(Wire):
    """A wire whose single POST answers with the picture."""

    @abstractmethod
    def _spoilt(self, kind: FaultKind, call: Call) -> Response:
        """The whole answer of an admitted call that goes wrong."""

    @abstractmethod
    async def _served(self, request: Request, fields: Fields, call: Call) -> Response:
        """The pictures."""

    async def _accept(self, request: Request, fields: Fields, call: Call, key: str) -> Response:
        with self._engine.admitted(call, key):
            if problem := self._problem(fields):
                return problem
            if fault := self._engine.faults.take(call.prompt, AFTER_THE_DOOR):
                if fault.kind in CHARGED:
                    self._bill(call)
                broken = await broken_answer(fault.kind, request, beginning=self.beginning)
                return broken or self._spoilt(fault.kind, call)
            if self._engine.moderated(call.prompt):
                return self._spoilt(FaultKind.MODERATION, call)
            self._bill(call)
            return await self._served(request, fields, call)

    def _bill(self, call: Call) -> None:
        call.billed = call.images


class TaskWire(Wire):
    """A wire with tasks. A call that it refuses uses no quota."""

    charge = Charge.DONE

    def __init__(self, engine: Engine, tasks: Tasks) -> None:
        super().__init__(engine)
        self._tasks = tasks

    @abstractmethod
    async def accepted(self, task: Task, request: Request) -> Response:
        """The answer to a submit that began `task`."""

    @abstractmethod
    def progress(self, task: Task, request: Request) -> Response:
        """The state of `task`."""

    @abstractmethod
    def unknown_task(self) -> Response:
        """The answer to a poll of a task that the key does not have."""

    async def _accept(self, request: Request, fields: Fields, call: Call, key: str) -> Response:
        if problem := self._problem(fields):
            return problem
        if self._engine.moderated(call.prompt):
            return self.refusal(FaultKind.MODERATION)
        fault = self._engine.faults.take(call.prompt, TO_SUBMITS)
        # A charged fault begins the task; only its answer is lost.
        if fault is None or fault.kind in CHARGED:
            task = self._tasks.accept(call, key, self._drawing(fields), charge=self.charge)
            if fault is None:
                return await self.accepted(task, request)
        return await self._broken(fault.kind, request, fault.retry_after_s)

    async def _poll(self, request: Request, key: str, number: str) -> Response:
        """The state of the key's task of that name."""
        try:
            task = self._tasks.poll(number, key)
        except QuotaExceededError as error:
            return self._throttled(error)
        fault = self._engine.faults.take_for_poll(task.call.prompt if task else "")
        if fault is not None and fault.kind is not FaultKind.SLOW_POLL:
            return await self._broken(fault.kind, request, fault.retry_after_s)
        if fault is not None:
            await asyncio.sleep(fault.delay_s)
        return self.unknown_task() if task is None else self.progress(task, request)

    async def _broken(self, kind: FaultKind, request: Request, wait_s: float | None) -> Response:
        broken = await broken_answer(kind, request, beginning=self.beginning)
        return broken or self.refusal(kind, wait_s)


def json_response(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A document as an answer, with exactly `application/json` as its type."""
    return Response(orjson.dumps(document), status, headers, media_type="application/json")


def wait_headers(wait_s: float | None) -> dict[str, str]:
    """When to come back. The one header holds whole seconds, so it rounds up; the other one is exact."""
    if wait_s is None:
        return {}
    return {"retry-after": str(math.ceil(wait_s)), "retry-after-ms": str(math.ceil(wait_s * 1000))}


def sides(size: object, between: str = "x") -> tuple[int, int]:
    """Width and height in pixels; 0 for a side that is no number."""
    width, _, height = str(size).partition(between)
    return whole(width), whole(height)


def whole(value: object) -> int:
    """A number of up to 9 digits; 0 for anything else."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
