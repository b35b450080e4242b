"""Fixtures for the providers' tests: a quick simulator, and providers that talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from providers.base import Provider, Request
from providers.http.asgi import AsgiServer
from providers.registry import create_provider
from providers.simulator import Simulator, SimulatorSettings
from tests.providers.conformance import KEY, Bench

ZIMAGE_KEY = "ms-planted-secret-0123456789abcdef"

OpenProvider = Callable[..., Provider]
Serve = Callable[[Any], Any]
StartSimulator = Callable[..., Any]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


def _opening(stack: AsyncExitStack, name: str, secret: str) -> OpenProvider:
    """Opens providers of this name that are closed after the test."""

    def open_(base_url: str, key: str = secret, **options: str) -> Provider:
        provider = create_provider(name, base_url=base_url, secrets={"api_key": key}, options=options)
        stack.push_async_callback(provider.aclose)
        return provider

    return open_


@pytest.fixture
def bench(request: pytest.FixtureRequest, stack: AsyncExitStack) -> Bench:
    return Bench(request.param, stack)


@pytest.fixture
def open_provider(stack: AsyncExitStack) -> OpenProvider:
    return _opening(stack, "openai", KEY)


@pytest.fixture
def open_openrouter(stack: AsyncExitStack) -> OpenProvider:
    return _opening(stack, "openrouter", KEY)


@pytest.fixture
def open_zimage(stack: AsyncExitStack) -> OpenProvider:
    return _opening(stack, "zimage", ZIMAGE_KEY)


@pytest.fixture
async def simulator(stack: AsyncExitStack) -> Simulator:
    return await stack.enter_async_context(Simulator(SimulatorSettings(latency_s=(0.0, 0.0), plain=True)))


@pytest.fixture
def start_simulator(stack: AsyncExitStack) -> StartSimulator:
    """Starts a simulator with the given settings."""

    async def start(**settings: Any) -> Simulator:
        given: dict[str, Any] = {"latency_s": (0.0, 0.0), "plain": True} | settings
        return await stack.enter_async_context(Simulator(SimulatorSettings(**given)))

    return start


@pytest.fixture
def serve(stack: AsyncExitStack) -> Serve:
    """Serves an ASGI app; returns its root URL."""

    async def start(app: Any) -> str:
        server = AsgiServer(app)
        await server.start()
        stack.push_async_callback(server.stop)
        return server.url

    return start


@pytest.fixture
def provider(open_provider: OpenProvider, simulator: Simulator) -> Provider:
    return open_provider(simulator.base_url)


def request_for(prompt: str = "a mug", **fields: Any) -> Request:
    """A small valid request to a compatible gateway."""
    given: dict[str, Any] = {"request_id": "r1", "model": "sim-1", "size": "64x64"} | fields
    return Request(prompt=prompt, **given)
