"""The SDKs, each started once, and the simulator that they and our clients call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from providers.simulator import Simulator, SimulatorSettings
from tests.sdks.environments import must_be_there
from tests.sdks.worker import Sdk

KEY = "sk-planted-0123456789abcdef"

StartSimulator = Callable[..., Any]


def started(name: str, script: str) -> Iterator[Sdk]:
    """The SDK of that name; without an environment its tests are skipped with the reason, or fail in CI."""
    try:
        sdk = Sdk(name, script)
    except (FileNotFoundError, RuntimeError) as error:
        if must_be_there():
            pytest.fail(str(error))
        pytest.skip(str(error))
    yield sdk
    sdk.close()


@pytest.fixture(scope="session", params=["openai2", "openai3"])
def openai(request: pytest.FixtureRequest) -> Iterator[Sdk]:
    yield from started(request.param, "openai_client.py")


@pytest.fixture(scope="session")
def tencent() -> Iterator[Sdk]:
    yield from started("tencent", "tencent_client.py")


@pytest.fixture(scope="session")
def modelscope() -> Iterator[Sdk]:
    yield from started("modelscope", "modelscope_client.py")


@pytest.fixture(scope="session")
def litellm() -> Iterator[Sdk]:
    yield from started("litellm", "litellm_client.py")


@pytest.fixture(scope="session")
def openrouter() -> Iterator[Sdk]:
    yield from started("openrouter", "openrouter_client.py")


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
def start_simulator(stack: AsyncExitStack) -> StartSimulator:
    """Start a quick simulator that records requests, with these settings."""

    async def start(**settings: Any) -> Simulator:
        given: dict[str, Any] = {"latency_s": (0.0, 0.0), "plain": True, "record_requests": True} | settings
        return await stack.enter_async_context(Simulator(SimulatorSettings(**given)))

    return start


@pytest.fixture
async def simulator(start_simulator: StartSimulator) -> Simulator:
    simulator = await start_simulator()
    assert isinstance(simulator, Simulator)
    return simulator
