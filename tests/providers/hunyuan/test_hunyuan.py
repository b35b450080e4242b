"""The hunyuan provider against the simulator, on every wire: pictures, receipts, refusals, crashes, and secrets."""

from __future__ import annotations

import io
import platform
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from PIL import Image

from providers.base import Provider
from providers.errors import Charged, ErrorKind, ProviderError, Retry, Scope
from providers.simulator import Simulator
from providers.simulator.faults import Fault, FaultKind
from tests.providers.conftest import StartSimulator
from tests.providers.hunyuan.rig import TASK_WIRES, WIRES, Wires, made, wanted

SECRET_ID, SECRET_KEY = "AKIDplantedplantedplanted01", "planted-secret-key-0123456789"


@pytest.fixture
def wires(stack: AsyncExitStack) -> Wires:
    return Wires(stack)


async def failure(provider: Provider, wire: str, prompt: str = "a mug", **fields: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await made(provider, wanted(wire, prompt, **fields))
    return caught.value


def sides(data: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(data)).size


# --- pictures


@pytest.mark.parametrize("wire", WIRES)
async def test_a_call_ends_in_the_requested_picture(wires: Wires, simulator: Simulator, wire: str) -> None:
    provider = wires.open(wire, simulator.url)
    generated = await made(provider, wanted(wire, size="640x512"))
    assert sides(await provider.fetch(generated.pictures[0])) == (640, 512)
    assert simulator.ledger.calls_by_prompt() == {"a mug": 1}
    assert (simulator.ledger.billed(), simulator.ledger.in_flight) == (1, 0)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    "fields", [{"size": "1024:1024"}, {"size": None, "params": {"resolution": "1024:1024"}}, {"size": None}]
)
async def test_a_resolution_as_tencent_writes_it_is_a_size(
    wires: Wires, simulator: Simulator, wire: str, fields: dict[str, Any]
) -> None:
    provider = wires.open(wire, simulator.url)
    generated = await made(provider, wanted(wire, **fields))
    assert sides(await provider.fetch(generated.pictures[0])) == (1024, 1024)


@pytest.mark.parametrize("wire", WIRES)
async def test_a_seed_decides_the_picture_because_the_prompt_is_not_rewritten(
    wires: Wires, start_simulator: StartSimulator, wire: str
) -> None:
    simulator = await start_simulator(plain=False)
    provider = wires.open(wire, simulator.url, revise="true")

    async def picture(seed: int | None) -> bytes:
        return await provider.fetch((await made(provider, wanted(wire, seed=seed))).pictures[0])

    assert await picture(7) == await picture(7)
    assert await picture(7) != await picture(8)
    assert await picture(None) != await picture(None)


@pytest.mark.parametrize("wire", TASK_WIRES)
async def test_a_poll_without_news_is_only_another_wait(
    wires: Wires, simulator: Simulator, wire: str
) -> None:
    simulator.faults.add(Fault(FaultKind.EMPTY, polls=True))
    assert (await made(wires.open(wire, simulator.url), wanted(wire))).pictures
    assert simulator.ledger.polls >= 2


# --- authentication


@pytest.mark.parametrize(
    ("secrets", "code"),
    [
        ({"secret_id": SECRET_ID}, "AuthFailure.SecretIdNotFound"),
        ({"secret_key": SECRET_KEY}, "AuthFailure.SignatureFailure"),
    ],
)
async def test_a_wrong_secret_pauses_the_account_and_is_not_shown(
    wires: Wires, simulator: Simulator, secrets: dict[str, str], code: str
) -> None:
    error = await failure(wires.open("tc3", simulator.url, secrets=secrets), "tc3")
    assert (error.kind, error.retry, error.provider_code) == (ErrorKind.AUTH, Retry.PAUSE_QUOTA, code)
    shown = repr(error) + str(error.to_dict())
    assert SECRET_ID not in shown
    assert SECRET_KEY not in shown


@pytest.mark.parametrize(("off_s", "says"), [(-400, "behind"), (400, "ahead of")])
async def test_a_wrong_clock_is_called_a_wrong_clock(
    wires: Wires, simulator: Simulator, off_s: float, says: str
) -> None:
    provider = wires.open("tc3", simulator.url, now=lambda: time.time() + off_s)
    error = await failure(provider, "tc3")
    assert (error.kind, error.provider_code) == (ErrorKind.AUTH, "AuthFailure.SignatureExpire")
    assert f"The clock of {platform.node()} is" in error.message
    assert f"s {says} the provider's" in error.message


@pytest.mark.parametrize("off_s", [-400, 400])
async def test_a_wrong_clock_concerns_one_machine_and_is_corrected_once(
    wires: Wires, simulator: Simulator, off_s: float
) -> None:
    provider = wires.open("tc3", simulator.url, now=lambda: time.time() + off_s)
    error = await failure(provider, "tc3")
    assert (error.retry, error.scope, error.charged) == (
        Retry.AFTER_THROTTLE,
        Scope.MACHINE,
        Charged.NO,
    )
    assert (await made(provider, wanted("tc3"))).pictures


async def test_a_clock_that_is_set_while_the_daemon_runs_is_heeded(
    wires: Wires, simulator: Simulator
) -> None:
    off_s = -400.0
    provider = wires.open("tc3", simulator.url, now=lambda: time.time() + off_s)
    await failure(provider, "tc3")
    off_s = 0.0
    await failure(provider, "tc3")
    assert (await made(provider, wanted("tc3"))).pictures


async def test_a_region_without_the_service_is_the_credentials_fault(
    wires: Wires, simulator: Simulator
) -> None:
    error = await failure(wires.open("tc3", simulator.url, region="ap-beijing"), "tc3")
    assert (error.kind, error.retry) == (ErrorKind.PERMISSION, Retry.PAUSE_QUOTA)
    assert "ap-guangzhou" in error.message
