"""ModelScope's provider against the simulator on real sockets: from a submit to the picture, each fault between."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from PIL import Image

from providers.base import CallHooks, Generated, Picture, Provider, Request, Submitted
from providers.errors import Charged, ErrorKind, ProviderError
from providers.simulator import Simulator
from providers.simulator.faults import Fault, FaultKind
from providers.simulator.settings import Rate
from tests.providers.conftest import OpenProvider, StartSimulator


@pytest.fixture
def provider(open_zimage: OpenProvider, simulator: Simulator) -> Provider:
    return open_zimage(simulator.modelscope_url)


def wanted(prompt: str = "a mug", **fields: Any) -> Request:
    given: dict[str, Any] = {
        "request_id": "r1",
        "model": "Tongyi-MAI/Z-Image-Turbo",
        "size": "512x512",
    } | fields
    return Request(prompt=prompt, **given)


async def submit(provider: Provider, timeout_s: float = 10, **fields: Any) -> Submitted:
    receipt = await provider.submit(wanted(**fields), timeout_s=timeout_s)
    assert isinstance(receipt, Submitted)
    return receipt


async def submit_failure(provider: Provider, timeout_s: float = 10, **fields: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.submit(wanted(**fields), timeout_s=timeout_s)
    return caught.value


async def ended(provider: Provider, receipt: Submitted) -> Generated:
    async with asyncio.timeout(10):
        while not isinstance(answer := await provider.poll(receipt), Generated):
            await asyncio.sleep(0.002)
    return answer


async def fetch_failure(provider: Provider, picture: Picture) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.fetch(picture)
    return caught.value


async def test_a_submit_a_poll_and_a_fetch_make_the_picture(provider: Provider, simulator: Simulator) -> None:
    receipt = await submit(provider, size="16:9", seed=0)
    generated = await ended(provider, receipt)
    data = await provider.fetch(generated.pictures[0])
    assert Image.open(io.BytesIO(data)).size == (1360, 768)
    assert (len(simulator.ledger.calls), simulator.ledger.billed()) == (1, 1)


@pytest.mark.parametrize(
    "fault",
    [
        FaultKind.RATE_LIMIT,
        FaultKind.BILLING,
        FaultKind.OVERLOADED,
        FaultKind.AUTH,
        FaultKind.SERVER_ERROR,
        FaultKind.BAD_GATEWAY,
        FaultKind.DROP,
        FaultKind.TRUNCATE,
        FaultKind.EMPTY,
        FaultKind.WRONG_TYPE,
    ],
)
async def test_each_fault_of_a_poll_is_only_a_poll_without_news(
    provider: Provider, simulator: Simulator, fault: FaultKind
) -> None:
    receipt = await submit(provider)
    simulator.faults.add(Fault(fault, polls=True, retry_after_s=3))
    with pytest.raises(ProviderError) as caught:
        await provider.poll(receipt)
    kind = ErrorKind.RATE_LIMITED if fault is FaultKind.RATE_LIMIT else ErrorKind.POLL_ERROR
    assert (caught.value.kind, caught.value.call_accepted) == (kind, False)
    assert caught.value.retry_after_s == (
        3
        if fault in (FaultKind.RATE_LIMIT, FaultKind.OVERLOADED, FaultKind.BILLING, FaultKind.SERVER_ERROR)
        else None
    )
    assert (await ended(provider, receipt)).pictures
    assert len(simulator.ledger.calls) == 1


async def test_another_poll_replaces_an_expired_address(provider: Provider, simulator: Simulator) -> None:
    simulator.faults.add(Fault(FaultKind.URL_EXPIRED))
    receipt = await submit(provider)
    stale = (await ended(provider, receipt)).pictures[0]
    error = await fetch_failure(provider, stale)
    assert (error.kind, error.charged) == (ErrorKind.RESULT_EXPIRED, Charged.YES)
    fresh = (await ended(provider, receipt)).pictures[0]
    assert fresh.url != stale.url
    assert Image.open(io.BytesIO(await provider.fetch(fresh))).size == (512, 512)
    assert simulator.ledger.billed() == 1


async def test_a_used_up_day_and_a_burst_are_distinct(
    open_zimage: OpenProvider, start_simulator: StartSimulator
) -> None:
    for rate, kind in (("1/24h", ErrorKind.QUOTA_EXHAUSTED), ("1/6s", ErrorKind.RATE_LIMITED)):
        provider = open_zimage((await start_simulator(requests=Rate.parse(rate))).modelscope_url)
        await submit(provider)
        assert (await submit_failure(provider)).kind is kind


async def test_a_poll_leaves_on_the_connection_of_the_last_poll_and_never_on_that_of_a_submit(
    provider: Provider,
) -> None:
    connected: list[bool] = []

    async def before_send(rtt_s: float | None) -> None:
        connected.append(rtt_s is not None)

    receipt = await submit(provider)
    for _ in range(2):
        await provider.poll(receipt, hooks=CallHooks(before_send))
    assert connected == [True, False]
