"""ModelScope's provider against the simulator on real sockets: from a submit to the picture, each fault between."""

from __future__ import annotations

import asyncio
import io
import logging
from typing import Any

import pytest
from PIL import Image

from providers.base import Generated, Picture, Provider, Request, Submitted
from providers.errors import Charged, ErrorKind, ProviderError, Retry
from providers.simulator import Simulator
from providers.simulator.faults import Fault, FaultKind
from providers.simulator.settings import Rate
from tests.providers.conftest import ZIMAGE_KEY, OpenProvider, StartSimulator


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


async def end_failure(provider: Provider, receipt: Submitted) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await ended(provider, receipt)
    return caught.value


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


async def test_the_same_seed_makes_the_same_picture(
    open_zimage: OpenProvider, start_simulator: StartSimulator
) -> None:
    provider = open_zimage((await start_simulator(plain=False)).modelscope_url)
    made = []
    for seed in (0, 0, 1):
        generated = await ended(provider, await submit(provider, seed=seed))
        made.append(await provider.fetch(generated.pictures[0]))
    assert made[0] == made[1] != made[2]


async def test_another_provider_object_finishes_what_a_receipt_tells_of(
    open_zimage: OpenProvider, simulator: Simulator
) -> None:
    first = open_zimage(simulator.modelscope_url)
    written = (await submit(first)).to_dict()
    await first.aclose()
    second = open_zimage(simulator.modelscope_url)
    generated = await ended(second, Submitted.from_dict(written))
    assert Image.open(io.BytesIO(await second.fetch(generated.pictures[0]))).size == (512, 512)
    assert len(simulator.ledger.calls) == 1


@pytest.mark.parametrize(
    ("fault", "kind", "accepted"),
    [
        (FaultKind.RATE_LIMIT, ErrorKind.RATE_LIMITED, 0),
        (FaultKind.CONCURRENCY, ErrorKind.CONCURRENCY_LIMITED, 0),
        (FaultKind.BILLING, ErrorKind.QUOTA_EXHAUSTED, 0),
        (FaultKind.OVERLOADED, ErrorKind.OVERLOADED, 0),
        (FaultKind.AUTH, ErrorKind.AUTH, 0),
        (FaultKind.SERVER_ERROR, ErrorKind.PROVIDER_FAULT, 0),
        (FaultKind.MODERATION, ErrorKind.MODERATION_INPUT, 0),
        (FaultKind.EMPTY, ErrorKind.AMBIGUOUS_SUBMIT, 0),
        (FaultKind.WRONG_TYPE, ErrorKind.BAD_RESPONSE, 0),
        (FaultKind.HANG, ErrorKind.AMBIGUOUS_SUBMIT, 1),
        (FaultKind.DROP, ErrorKind.AMBIGUOUS_SUBMIT, 1),
        (FaultKind.TRUNCATE, ErrorKind.AMBIGUOUS_SUBMIT, 1),
        (FaultKind.BAD_GATEWAY, ErrorKind.AMBIGUOUS_SUBMIT, 1),
    ],
)
async def test_each_fault_of_a_submit_is_recognised_and_the_call_is_sent_once(
    provider: Provider, simulator: Simulator, fault: FaultKind, kind: ErrorKind, accepted: int
) -> None:
    simulator.faults.add(Fault(fault))
    error = await submit_failure(provider, timeout_s=0.4 if fault is FaultKind.HANG else 10)
    assert error.kind is kind
    assert (len(simulator.ledger.calls), simulator.ledger.billed()) == (1, accepted)
    await ended(provider, await submit(provider))


async def test_a_lost_answer_to_an_accepted_submit_is_never_plainly_repeated(
    provider: Provider, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(FaultKind.DROP))
    error = await submit_failure(provider)
    assert (error.kind, error.retry, error.charged) == (
        ErrorKind.AMBIGUOUS_SUBMIT,
        Retry.UNKNOWN_OUTCOME,
        Charged.MAYBE,
    )
    assert simulator.ledger.billed() == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (FaultKind.TASK_FAILED, ErrorKind.PROVIDER_FAULT),
        (FaultKind.TASK_MODERATED, ErrorKind.MODERATION_OUTPUT),
        (FaultKind.TASK_LOST, ErrorKind.TASK_LOST),
    ],
)
async def test_each_bad_end_of_a_task_is_recognised(
    provider: Provider, simulator: Simulator, fault: FaultKind, kind: ErrorKind
) -> None:
    simulator.faults.add(Fault(fault))
    error = await end_failure(provider, await submit(provider))
    assert (error.kind, error.charged) == (kind, Charged.MAYBE)


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
    assert (caught.value.kind, caught.value.retry) == (ErrorKind.POLL_ERROR, Retry.POLL_AGAIN)
    assert caught.value.retry_after_s == (
        3
        if fault in (FaultKind.RATE_LIMIT, FaultKind.OVERLOADED, FaultKind.BILLING, FaultKind.SERVER_ERROR)
        else None
    )
    assert (await ended(provider, receipt)).pictures
    assert len(simulator.ledger.calls) == 1


async def test_polls_have_a_limit_of_their_own_and_a_refused_one_says_when_to_come_back(
    open_zimage: OpenProvider, start_simulator: StartSimulator
) -> None:
    simulator = await start_simulator(polls=Rate(1, 60))
    provider = open_zimage(simulator.modelscope_url)
    receipt = await submit(provider)
    await provider.poll(receipt)
    with pytest.raises(ProviderError) as caught:
        await provider.poll(receipt)
    assert caught.value.kind is ErrorKind.POLL_ERROR
    assert 50 < (caught.value.retry_after_s or 0) <= 61


async def test_an_expired_address_is_told_apart_and_another_poll_gives_a_good_one(
    provider: Provider, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(FaultKind.URL_EXPIRED))
    receipt = await submit(provider)
    stale = (await ended(provider, receipt)).pictures[0]
    error = await fetch_failure(provider, stale)
    assert (error.kind, error.charged) == (ErrorKind.RESULT_EXPIRED, Charged.YES)
    fresh = (await ended(provider, receipt)).pictures[0]
    assert fresh.url != stale.url
    assert Image.open(io.BytesIO(await provider.fetch(fresh))).size == (512, 512)
    assert simulator.ledger.billed() == 1


async def test_an_address_that_leads_to_something_else_is_no_picture(
    provider: Provider, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(FaultKind.NOT_A_PICTURE))
    generated = await ended(provider, await submit(provider))
    error = await fetch_failure(provider, generated.pictures[0])
    assert error.kind is ErrorKind.BAD_RESPONSE


async def test_a_slow_answer_to_a_poll_is_waited_for(provider: Provider, simulator: Simulator) -> None:
    receipt = await submit(provider)
    simulator.faults.add(Fault(FaultKind.SLOW_POLL, delay_s=0.05))
    assert (await ended(provider, receipt)).pictures


async def test_a_refused_prompt_is_moderated_and_costs_nothing(
    provider: Provider, simulator: Simulator
) -> None:
    error = await submit_failure(provider, prompt="gore")
    assert (error.kind, error.charged, simulator.ledger.billed()) == (
        ErrorKind.MODERATION_INPUT,
        Charged.NO,
        0,
    )


async def test_a_used_up_day_and_a_burst_are_told_apart(
    open_zimage: OpenProvider, start_simulator: StartSimulator
) -> None:
    for rate, kind in (("1/24h", ErrorKind.QUOTA_EXHAUSTED), ("1/6s", ErrorKind.RATE_LIMITED)):
        provider = open_zimage((await start_simulator(requests=Rate.parse(rate))).modelscope_url)
        await submit(provider)
        assert (await submit_failure(provider)).kind is kind


async def test_a_task_that_runs_holds_its_place_at_the_provider(
    open_zimage: OpenProvider, start_simulator: StartSimulator
) -> None:
    simulator = await start_simulator(in_flight=1)
    simulator.faults.add(Fault(FaultKind.TASK_STUCK))
    provider = open_zimage(simulator.modelscope_url)
    await submit(provider)
    assert (await submit_failure(provider)).kind is ErrorKind.CONCURRENCY_LIMITED


async def test_the_key_is_in_no_repr_error_log_or_address(
    provider: Provider, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    simulator.faults.add(Fault(FaultKind.AUTH))
    error = await submit_failure(provider)
    receipt = await submit(provider)
    generated = await ended(provider, receipt)
    await provider.fetch(generated.pictures[0])
    shown = f"{provider!r} {error!r} {error.to_dict()} {receipt!r} {generated!r} {generated.pictures[0].url}"
    assert ZIMAGE_KEY not in shown + caplog.text + str(simulator.ledger.entries())
    assert "q-signature" not in f"{generated!r}" + caplog.text
