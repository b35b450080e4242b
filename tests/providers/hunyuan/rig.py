"""Shared by the tests of the hunyuan provider: its three wires, opened against a simulator or canned answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from providers.base import Generated, Provider, Request
from providers.hunyuan.provider import create
from tests.providers.conformance import SECRETS, ended

WIRES = ("tc3", "tokenhub_async", "tokenhub_sync")
TASK_WIRES = WIRES[:2]
MODELS = {"tc3": "hunyuan-image-3.0", "tokenhub_async": "hy-image-v3.0", "tokenhub_sync": "hy-image-v3"}

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
        given = SECRETS | (secrets or {})
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
    return answer if isinstance(answer, Generated) else await ended(provider, answer)


def tencent_error(code: str, message: str = "no") -> dict[str, Any]:
    return {"Response": {"Error": {"Code": code, "Message": message}, "RequestId": "rid-1"}}


def tokenhub_error(code: str, message: str = "no", **more: str) -> dict[str, Any]:
    return {"error": {"type": "t", "code": code, "message": message, "request_id": "rid-1", **more}}
