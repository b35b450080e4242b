"""What the wires share whose call is one POST that answers with the picture: the way of a call through them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from providers.simulator.engine import Engine, QuotaExceededError
from providers.simulator.faults import CHARGED, Fault
from providers.simulator.ledger import Call, SentFile
from providers.simulator.misbehaviour import CutResponse, HangingResponse, broken_answer
from providers.simulator.quotas import Refusal


class OneCallWire(ABC):
    """Base of such wires, which say in their own words what happens here."""

    beginning: bytes  # what a truncated answer starts with

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def _answer(
        self,
        request: Request,
        body: bytes,
        fields: dict[str, Any],
        *,
        prompt: str,
        images: int = 1,
        files: tuple[SentFile, ...] = (),
    ) -> Response:
        """Check the key, write the call down, let the quotas decide, and serve it.

        Of a call with files, the fields are kept as well: tests look there for what exactly was sent.
        """
        engine, ledger = self._engine, self._engine.ledger
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not engine.knows(key):
            return self._unknown_key()
        call = ledger.arrive(key, prompt, body, images)
        if files:
            call.files = files
            call.fields = {name: value for name, value in fields.items() if isinstance(value, str)}
        try:
            if fault := engine.faults.take(prompt, at_the_door=True):
                response = self._turned_away(fault)
            else:
                with engine.admitted(call, key):
                    response = await self._admitted(request, fields, call)
        except QuotaExceededError as error:
            response = self._throttled(error.refusal)
        finally:
            ledger.end(call)
        call.status = 0 if isinstance(response, HangingResponse | CutResponse) else response.status_code
        return response

    async def _admitted(self, request: Request, fields: dict[str, Any], call: Call) -> Response:
        problem = self._problem(fields)
        if problem is not None:
            return problem
        if fault := self._engine.faults.take(call.prompt, at_the_door=False):
            if fault.kind in CHARGED:
                self._bill(call, fields)
            return await broken_answer(fault.kind, request, beginning=self.beginning) or self._spoilt(
                fault, fields, call
            )
        if self._engine.moderated(call.prompt):
            return self._moderated(call)
        self._bill(call, fields)
        return await self._served(request, fields, call)

    def _bill(self, call: Call, fields: dict[str, Any]) -> None:  # noqa: ARG002 (wires that tell a cost look there)
        call.billed = call.images

    @abstractmethod
    def _unknown_key(self) -> Response:
        """The answer for a key that is not one."""

    @abstractmethod
    def _turned_away(self, fault: Fault) -> Response:
        """The answer for a fault at the door."""

    @abstractmethod
    def _throttled(self, refusal: Refusal) -> Response:
        """The answer where a quota is used up."""

    @abstractmethod
    def _problem(self, fields: dict[str, Any]) -> Response | None:
        """Why the request is not valid, as an answer."""

    @abstractmethod
    def _spoilt(self, fault: Fault, fields: dict[str, Any], call: Call) -> Response:
        """The answer for a fault that has a whole answer of this wire."""

    @abstractmethod
    def _moderated(self, call: Call) -> Response:
        """The answer for a prompt that is not allowed."""

    @abstractmethod
    async def _served(self, request: Request, fields: dict[str, Any], call: Call) -> Response:
        """The pictures."""


def wait_headers(refusal: Refusal) -> dict[str, str]:
    """When to come back: whole seconds are what the header can say, so it rounds up; the other one is exact."""
    wait_s = max(0.001, refusal.retry_after_s)
    return {"retry-after": str(int(wait_s) + 1), "retry-after-ms": str(int(wait_s * 1000) + 1)}
