"""The cases of the suite of all providers: one `Case` a wire, and a bench to open and drive it.

A new provider adds its case here, and its wire to the simulator; `test_conformance` does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from providers.base import Generated, Pending, Provider, Request, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.http.asgi import AsgiServer
from providers.registry import create_provider
from providers.simulator import Simulator, SimulatorSettings
from providers.simulator.faults import FaultKind
from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY

KEY = "sk-planted-secret-0123456789abcdef"
SECRETS = {"api_key": KEY, "secret_id": TC3_SECRET_ID, "secret_key": TC3_SECRET_KEY}

# Prompts that use the words of an account's troubles.
ECHOED = [
    "a poster: billing, insufficient credit, spend limit, quota exceeded, daily quota, free allocated quota exceeded",
    "a sign that says: too many concurrent requests, rate limit, server is busy, try again in 5 hours",
    "a cartoon of a bank: your account has been suspended, your resource has been temporarily blocked",
    "a card with: authentication failed, please bind your Alibaba Cloud account, 实名认证, 额度已用完",
]

Errors = Mapping[FaultKind, ErrorKind]

AT_THE_DOOR: Errors = {
    FaultKind.RATE_LIMIT: ErrorKind.RATE_LIMITED,
    FaultKind.CONCURRENCY: ErrorKind.CONCURRENCY_LIMITED,
    FaultKind.BILLING: ErrorKind.BILLING_EXHAUSTED,
    FaultKind.OVERLOADED: ErrorKind.OVERLOADED,
    FaultKind.AUTH: ErrorKind.AUTH,
    FaultKind.MODERATION: ErrorKind.MODERATION_INPUT,
}
LOST: Errors = dict.fromkeys(
    (FaultKind.HANG, FaultKind.DROP, FaultKind.TRUNCATE, FaultKind.BAD_GATEWAY), ErrorKind.AMBIGUOUS_SUBMIT
)
SPOILT: Errors = {
    FaultKind.SERVER_ERROR: ErrorKind.PROVIDER_FAULT,
    FaultKind.WRONG_TYPE: ErrorKind.BAD_RESPONSE,
}
WITHOUT_A_PICTURE: Errors = {
    FaultKind.EMPTY: ErrorKind.NO_IMAGE,
    FaultKind.ERROR_INSIDE: ErrorKind.PROVIDER_FAULT,
    FaultKind.WITHHELD: ErrorKind.MODERATION_OUTPUT,
    FaultKind.NOT_A_PICTURE: ErrorKind.BAD_RESPONSE,
}
BAD_ENDS: Errors = {
    FaultKind.TASK_FAILED: ErrorKind.PROVIDER_FAULT,
    FaultKind.TASK_MODERATED: ErrorKind.MODERATION_OUTPUT,
    FaultKind.TASK_LOST: ErrorKind.TASK_LOST,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One wire of a provider. `errors` are its own kinds for faults, beside those that all wires share."""

    name: str
    provider: str
    model: str
    path: str  # of its base address on the simulator
    accepted: dict[str, Any]  # the document of an accepted submit
    error: Callable[[str], dict[str, Any]]  # the document of a refusal with these words
    mode: Literal["sync", "task"] = "sync"
    finished: Callable[[str], dict[str, Any]] = lambda task_id: {}
    options: Mapping[str, str] = field(default_factory=dict)
    errors: Errors = field(default_factory=dict)
    tells_wait: bool = True

    def kind_of(self, fault: FaultKind) -> ErrorKind:
        return {**AT_THE_DOOR, **LOST, **SPOILT, **BAD_ENDS, **self.errors}[fault]

    def faults(self) -> list[FaultKind]:
        """The faults of a submit."""
        own = [fault for fault in self.errors if fault not in BAD_ENDS]
        return list(dict.fromkeys([*AT_THE_DOOR, *LOST, *SPOILT, *own]))

    def request(self, prompt: str = "a mug", **fields: Any) -> Request:
        """A small valid request."""
        given: dict[str, Any] = {"request_id": "r1", "model": self.model, "size": "1:1"} | fields
        return Request(prompt=prompt, **given)


PNG_URL = "https://pictures.example/x.png"
CASES = [
    Case(
        name="openai",
        provider="openai",
        model="sim-1",
        path="/v1",
        accepted={"data": [{"url": PNG_URL}]},
        error=lambda message: {"error": {"message": message, "type": None, "code": None}},
        errors=WITHOUT_A_PICTURE,
    ),
    Case(
        name="openrouter-chat",
        provider="openrouter",
        model="google/gemini-3.1-flash-image",
        path="/api/v1",
        accepted={"choices": [{"message": {"images": [{"image_url": {"url": PNG_URL}}]}}]},
        error=lambda message: {"error": {"message": message, "metadata": {}}},
        errors=WITHOUT_A_PICTURE,
    ),
    Case(
        name="openrouter-images",
        provider="openrouter",
        model="google/gemini-3.1-flash-image",
        path="/api/v1",
        accepted={"data": [{"url": PNG_URL}]},
        error=lambda message: {"error": {"message": message, "metadata": {}}},
        options={"wire": "images"},
        # An empty list of pictures, and no place to say why.
        errors={**WITHOUT_A_PICTURE, FaultKind.WITHHELD: ErrorKind.NO_IMAGE},
    ),
    Case(
        name="zimage",
        provider="zimage",
        model="Tongyi-MAI/Z-Image-Turbo",
        path="/modelscope",
        accepted={"task_id": "7", "task_status": "SUCCEED"},
        error=lambda message: {"errors": {"message": message}, "request_id": "r"},
        mode="task",
        finished=lambda task_id: {
            "task_id": task_id,
            "task_status": "SUCCEED",
            "output_images": [PNG_URL],
        },
        errors={
            FaultKind.BILLING: ErrorKind.QUOTA_EXHAUSTED,
            FaultKind.EMPTY: ErrorKind.AMBIGUOUS_SUBMIT,
        },
    ),
    Case(
        name="hunyuan-tc3",
        provider="hunyuan",
        model="hunyuan-image-3.0",
        path="",
        accepted={"Response": {"JobId": "7", "RequestId": "r"}},
        error=lambda message: {"Response": {"Error": {"Message": message}, "RequestId": "r"}},
        mode="task",
        finished=lambda task_id: {
            "Response": {"JobId": task_id, "JobStatusCode": "5", "ResultImage": [PNG_URL]}
        },
        errors={FaultKind.EMPTY: ErrorKind.BAD_RESPONSE},
        tells_wait=False,
    ),
    Case(
        name="hunyuan-tokenhub-async",
        provider="hunyuan",
        model="hy-image-v3.0",
        path="",
        accepted={"id": "7", "status": "queued"},
        error=lambda message: {"error": {"type": "t", "message": message}},
        mode="task",
        finished=lambda task_id: {"id": task_id, "status": "completed", "data": [{"url": PNG_URL}]},
        options={"wire": "tokenhub_async"},
        errors={FaultKind.EMPTY: ErrorKind.BAD_RESPONSE},
    ),
    Case(
        name="hunyuan-tokenhub-sync",
        provider="hunyuan",
        model="hy-image-v3",
        path="",
        accepted={"id": "7", "data": [{"url": PNG_URL}]},
        error=lambda message: {"error": {"type": "t", "message": message}},
        options={"wire": "tokenhub_sync"},
        # The call waits for a task. A status that names rejected content does not say whose content it was.
        errors={
            FaultKind.EMPTY: ErrorKind.NO_IMAGE,
            FaultKind.TASK_FAILED: ErrorKind.PROVIDER_FAULT,
            FaultKind.TASK_MODERATED: ErrorKind.MODERATION_INPUT,
        },
    ),
]
TASKS = [case for case in CASES if case.mode == "task"]
CALLS = [case for case in CASES if case.mode == "sync"]


def on(cases: list[Case]) -> pytest.MarkDecorator:
    """On each of these wires."""
    return pytest.mark.parametrize("bench", cases, ids=lambda case: case.name, indirect=True)


class Canned:
    """An app that gives one answer to every call and keeps the requests."""

    def __init__(self, body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.body = body if isinstance(body, bytes) else orjson.dumps(body)
        self.status = status
        self.headers = {"content-type": "application/json", **(headers or {})}
        self.seen: list[tuple[HttpRequest, bytes]] = []
        self.app = Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST"])])

    async def answer(self, request: HttpRequest) -> Response:
        self.seen.append((request, await request.body()))
        return Response(self.body, self.status, self.headers)

    @property
    def sent(self) -> dict[str, Any]:
        """The fields of the latest call."""
        fields = orjson.loads(self.seen[-1][1])
        assert isinstance(fields, dict)
        return fields


class Bench:
    """One case, its provider, and the server of that; the stack closes them all."""

    def __init__(self, case: Case, stack: AsyncExitStack) -> None:
        self.case = case
        self._stack = stack

    def open(self, base_url: str, **secrets: str) -> Provider:
        """A provider for this base address."""
        provider = create_provider(
            self.case.provider, base_url=base_url, secrets=SECRETS | secrets, options=self.case.options
        )
        self._stack.push_async_callback(provider.aclose)
        return provider

    async def simulated(self, **settings: Any) -> tuple[Provider, Simulator]:
        """A provider that talks to a quick simulator."""
        given: dict[str, Any] = {"latency_s": (0.0, 0.0), "plain": True} | settings
        simulator = await self._stack.enter_async_context(Simulator(SimulatorSettings(**given)))
        return self.open(simulator.url + self.case.path), simulator

    async def canned(self, body: Any, status: int = 200, **headers: str) -> tuple[Provider, Canned]:
        """A provider whose every call gets this answer; underscores in names of headers stand for hyphens."""
        app = Canned(body, status, {name.replace("_", "-"): value for name, value in headers.items()})
        return self.open(await self.serve(app.app) + self.case.path), app

    async def serve(self, app: Any) -> str:
        """The root address of an app that is served."""
        server = AsgiServer(app)
        await server.start()
        self._stack.push_async_callback(server.stop)
        return server.url

    async def made(self, provider: Provider, prompt: str = "a mug", **fields: Any) -> Generated:
        """The finished call, polled to its end if it is a task."""
        answer = await provider.submit(self.case.request(prompt, **fields), timeout_s=10)
        return answer if isinstance(answer, Generated) else await ended(provider, answer)

    async def submitted(self, provider: Provider, prompt: str = "a mug") -> Submitted:
        """The receipt of a task."""
        answer = await provider.submit(self.case.request(prompt), timeout_s=10)
        assert isinstance(answer, Submitted)
        return answer

    async def failure(
        self, provider: Provider, prompt: str = "a mug", timeout_s: float = 10, **fields: Any
    ) -> ProviderError:
        """The error of a submit."""
        with pytest.raises(ProviderError) as caught:
            await provider.submit(self.case.request(prompt, **fields), timeout_s=timeout_s)
        return caught.value


async def ended(provider: Provider, receipt: Submitted) -> Generated:
    """The result of a task, polled to its end."""
    async with asyncio.timeout(10):
        while isinstance(answer := await provider.poll(receipt), Pending):
            await asyncio.sleep(0.002)
    return answer


async def closed_port() -> int:
    """A port without a listener."""
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port
