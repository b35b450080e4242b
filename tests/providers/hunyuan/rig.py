"""What the tests of the hunyuan provider share: its three wires, opened against a simulator or canned answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from providers.base import Generated, Pending, Provider, Request, Submitted
from providers.hunyuan.provider import create
from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY

WIRES = ("tc3", "tokenhub_async", "tokenhub_sync")
TASK_WIRES = WIRES[:2]
MODELS = {"tc3": "hunyuan-image-3.0", "tokenhub_async": "hy-image-v3.0", "tokenhub_sync": "hy-image-v3"}
API_KEY = "planted-tokenhub-key-0123456789"

Open = Callable[..., Provider]


class Wires:
    """Opens providers that are closed after the test."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    def open(
        self,
        wire: str,
        base_url: str,
        *,
        secrets: dict[str, str] | None = None,
        now: Callable[[], float] | None = None,
        **options: str,
    ) -> Provider:
        given = {"secret_id": TC3_SECRET_ID, "secret_key": TC3_SECRET_KEY, "api_key": API_KEY} | (
            secrets or {}
        )
        clock: dict[str, Any] = {} if now is None else {"now": now}
        provider = create(base_url=base_url, secrets=given, options={"wire": wire, **options}, **clock)
        self._stack.push_async_callback(provider.aclose)
        return provider


def wanted(wire: str, prompt: str = "a mug", **fields: Any) -> Request:
    """A valid request for the wire's model."""
    given: dict[str, Any] = {"request_id": "r1", "model": MODELS[wire], "size": "512x512"} | fields
    return Request(prompt=prompt, **given)


async def made(provider: Provider, request: Request, timeout_s: float = 10) -> Generated:
    """The finished call, polled to its end where the wire has tasks."""
    answer = await provider.submit(request, timeout_s=timeout_s)
    return answer if isinstance(answer, Generated) else await polled(provider, answer)


async def polled(provider: Provider, submitted: Submitted) -> Generated:
    async with asyncio.timeout(10):
        while isinstance(answer := await provider.poll(submitted), Pending):
            await asyncio.sleep(0.005)
    return answer


class Canned:
    """An app that gives one answer to every call and keeps what was sent."""

    def __init__(self, body: bytes | dict[str, Any], status: int = 200, **headers: str) -> None:
        self.body = body if isinstance(body, bytes) else orjson.dumps(body)
        self.status = status
        self.headers = {"content-type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        self.seen: list[tuple[HttpRequest, bytes]] = []
        self.app = Starlette(routes=[Route("/{path:path}", self.answer, methods=["POST"])])

    async def answer(self, request: HttpRequest) -> Response:
        self.seen.append((request, await request.body()))
        return Response(self.body, self.status, self.headers)

    @property
    def sent(self) -> dict[str, Any]:
        """The fields of the last call."""
        fields = orjson.loads(self.seen[-1][1])
        assert isinstance(fields, dict)
        return fields


def tencent_error(code: str, message: str = "no") -> dict[str, Any]:
    return {"Response": {"Error": {"Code": code, "Message": message}, "RequestId": "rid-1"}}


def tokenhub_error(code: str, message: str = "no", **more: str) -> dict[str, Any]:
    return {"error": {"type": "t", "code": code, "message": message, "request_id": "rid-1", **more}}
