"""The hunyuan provider against the simulator, on every wire: pictures, receipts, refusals, crashes, and secrets."""

from __future__ import annotations

import asyncio
import io
import logging
import platform
import time
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from PIL import Image

from providers.base import Picture, Provider, Submitted
from providers.errors import Charged, ErrorKind, ProviderError, Retry, Scope
from providers.hunyuan.provider import HunyuanProvider
from providers.simulator import Simulator
from providers.simulator.faults import Fault, FaultKind
from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY, Rate
from tests.providers.conftest import StartSimulator
from tests.providers.hunyuan.rig import API_KEY, TASK_WIRES, WIRES, Wires, made, polled, wanted

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
async def test_a_call_ends_in_the_picture_that_was_asked_for(
    wires: Wires, simulator: Simulator, wire: str
) -> None:
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
async def test_a_seed_decides_the_picture_since_the_prompt_is_then_not_rewritten(
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
async def test_a_fresh_provider_polls_a_receipt_that_was_written_down(
    wires: Wires, simulator: Simulator, wire: str
) -> None:
    """The process that submitted is gone; all that is left is the receipt's JSON."""
    submitted = await wires.open(wire, simulator.url).submit(wanted(wire), timeout_s=10)
    assert isinstance(submitted, Submitted)
    receipt = orjson.dumps(submitted.to_dict())
    fresh = wires.open(wire, simulator.url)
    generated = await polled(fresh, Submitted.from_dict(orjson.loads(receipt)))
    assert sides(await fresh.fetch(generated.pictures[0])) == (512, 512)
    assert simulator.ledger.calls_by_prompt() == {"a mug": 1}


# --- what is lost between here and there


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", [FaultKind.DROP, FaultKind.BAD_GATEWAY, FaultKind.TRUNCATE, FaultKind.HANG])
async def test_an_accepted_call_whose_answer_is_lost_is_ambiguous_and_never_sent_again(
    wires: Wires, simulator: Simulator, wire: str, kind: FaultKind
) -> None:
    simulator.faults.add(Fault(kind))
    provider = wires.open(wire, simulator.url)
    with pytest.raises(ProviderError) as caught:
        await provider.submit(wanted(wire), timeout_s=0.5 if kind is FaultKind.HANG else 10)
    assert caught.value.kind is ErrorKind.AMBIGUOUS_SUBMIT
    assert caught.value.charged is Charged.MAYBE
    assert len(simulator.ledger.calls) == 1
    async with asyncio.timeout(10):
        while not simulator.ledger.billed():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", [FaultKind.WRONG_TYPE, FaultKind.EMPTY])
async def test_a_200_that_says_nothing_leaves_the_decision_to_the_job(
    wires: Wires, simulator: Simulator, wire: str, kind: FaultKind
) -> None:
    simulator.faults.add(Fault(kind))
    error = await failure(wires.open(wire, simulator.url), wire)
    if (wire, kind) == ("tokenhub_sync", FaultKind.EMPTY):
        assert error.kind is ErrorKind.NO_IMAGE
    else:
        assert (error.kind, error.retry) == (ErrorKind.BAD_RESPONSE, Retry.UNKNOWN_OUTCOME)
    assert len(simulator.ledger.calls) == 1


@pytest.mark.parametrize("wire", WIRES)
async def test_a_provider_that_cannot_be_reached_was_sent_nothing(wires: Wires, wire: str) -> None:
    error = await failure(wires.open(wire, "http://127.0.0.1:9"), wire)
    assert (error.kind, error.charged) == (ErrorKind.NETWORK_UNSENT, Charged.NO)


# --- refusals


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("kind", "error_kind", "charged"),
    [
        (FaultKind.RATE_LIMIT, ErrorKind.RATE_LIMITED, Charged.NO),
        (FaultKind.CONCURRENCY, ErrorKind.CONCURRENCY_LIMITED, Charged.NO),
        (FaultKind.BILLING, ErrorKind.BILLING_EXHAUSTED, Charged.NO),
        (FaultKind.OVERLOADED, ErrorKind.OVERLOADED, Charged.NO),
        (FaultKind.AUTH, ErrorKind.AUTH, Charged.NO),
        (FaultKind.MODERATION, ErrorKind.MODERATION_INPUT, Charged.NO),
        (FaultKind.SERVER_ERROR, ErrorKind.PROVIDER_FAULT, Charged.MAYBE),
    ],
)
async def test_a_refused_call_is_sorted_and_costs_nothing(
    wires: Wires, simulator: Simulator, wire: str, kind: FaultKind, error_kind: ErrorKind, charged: Charged
) -> None:
    simulator.faults.add(Fault(kind))
    error = await failure(wires.open(wire, simulator.url), wire)
    if (wire, kind) == ("tokenhub_sync", FaultKind.MODERATION):
        charged = Charged.MAYBE  # it is not said whether the picture was made before
    assert (error.kind, error.charged) == (error_kind, charged)
    assert simulator.ledger.billed() == 0
    assert len(simulator.ledger.calls) == 1


@pytest.mark.parametrize("wire", WIRES)
async def test_a_forbidden_prompt_is_refused_as_the_jobs_own_fault(
    wires: Wires, simulator: Simulator, wire: str
) -> None:
    error = await failure(wires.open(wire, simulator.url), wire, "a forbidden thing")
    assert (error.kind, error.retry) == (ErrorKind.MODERATION_INPUT, Retry.NEVER)


@pytest.mark.parametrize("wire", ["tokenhub_async", "tokenhub_sync"])
@pytest.mark.parametrize("retry_after_s", [None, 7.0])
async def test_a_429_tells_how_long_to_wait_where_it_does(
    wires: Wires, simulator: Simulator, wire: str, retry_after_s: float | None
) -> None:
    simulator.faults.add(Fault(FaultKind.RATE_LIMIT, retry_after_s=retry_after_s))
    error = await failure(wires.open(wire, simulator.url), wire)
    assert (error.kind, error.http_status) == (ErrorKind.RATE_LIMITED, 429)
    assert error.retry_after_s == retry_after_s


@pytest.mark.parametrize("wire", TASK_WIRES)
async def test_one_job_at_a_time_means_until_it_has_ended(
    wires: Wires, start_simulator: StartSimulator, wire: str
) -> None:
    simulator = await start_simulator(in_flight=1, latency_s=(0.2, 0.2))
    provider = wires.open(wire, simulator.url)
    submitted = await provider.submit(wanted(wire), timeout_s=10)
    assert isinstance(submitted, Submitted)
    refused = await failure(provider, wire, "another")
    assert (refused.kind, refused.retry) == (ErrorKind.CONCURRENCY_LIMITED, Retry.AFTER_THROTTLE)
    await polled(provider, submitted)
    await made(provider, wanted(wire, "another"))
    assert simulator.ledger.max_in_flight == 1


@pytest.mark.parametrize("wire", WIRES)
async def test_the_rate_of_calls_is_enforced(
    wires: Wires, start_simulator: StartSimulator, wire: str
) -> None:
    simulator = await start_simulator(requests=Rate(1, 60))
    provider = wires.open(wire, simulator.url)
    await made(provider, wanted(wire))
    assert (await failure(provider, wire, "another")).kind is ErrorKind.RATE_LIMITED


# --- tasks that end otherwise


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("kind", "error_kind"),
    [
        (FaultKind.TASK_FAILED, ErrorKind.PROVIDER_FAULT),
        (FaultKind.TASK_MODERATED, ErrorKind.MODERATION_OUTPUT),
        (FaultKind.TASK_LOST, ErrorKind.TASK_LOST),
    ],
)
async def test_a_task_that_ends_without_a_picture_says_why(
    wires: Wires, simulator: Simulator, wire: str, kind: FaultKind, error_kind: ErrorKind
) -> None:
    simulator.faults.add(Fault(kind))
    provider = wires.open(wire, simulator.url)
    if wire == "tokenhub_sync" and kind is FaultKind.TASK_LOST:
        await made(provider, wanted(wire))  # nobody polls, so nothing can be lost
        return
    error = await failure(provider, wire)
    # A status that names rejected content does not say whose words or picture it was.
    sync_moderation = wire == "tokenhub_sync" and kind is FaultKind.TASK_MODERATED
    assert error.kind is (ErrorKind.MODERATION_INPUT if sync_moderation else error_kind)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("kind", "error_kind"),
    [
        (FaultKind.URL_EXPIRED, ErrorKind.RESULT_EXPIRED),
        (FaultKind.NOT_A_PICTURE, ErrorKind.BAD_RESPONSE),
    ],
)
async def test_a_picture_that_cannot_be_fetched_was_paid_for_all_the_same(
    wires: Wires, simulator: Simulator, wire: str, kind: FaultKind, error_kind: ErrorKind
) -> None:
    simulator.faults.add(Fault(kind))
    provider = wires.open(wire, simulator.url)
    picture = (await made(provider, wanted(wire))).pictures[0]
    with pytest.raises(ProviderError) as caught:
        await provider.fetch(picture)
    assert caught.value.kind is error_kind
    assert picture.url is not None
    assert picture.url.partition("?")[2] not in repr(caught.value) + repr(picture)


# --- polls


@pytest.mark.parametrize("wire", TASK_WIRES)
@pytest.mark.parametrize(
    "kind",
    [
        FaultKind.RATE_LIMIT,
        FaultKind.BILLING,
        FaultKind.AUTH,
        FaultKind.OVERLOADED,
        FaultKind.SERVER_ERROR,
        FaultKind.BAD_GATEWAY,
        FaultKind.DROP,
        FaultKind.HANG,
        FaultKind.TRUNCATE,
        FaultKind.WRONG_TYPE,
    ],
)
async def test_a_poll_without_a_good_answer_gives_up_nothing(
    wires: Wires, simulator: Simulator, wire: str, kind: FaultKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HunyuanProvider, "poll_timeout_s", 0.5)
    provider = wires.open(wire, simulator.url)
    submitted = await provider.submit(wanted(wire), timeout_s=10)
    assert isinstance(submitted, Submitted)
    simulator.faults.add(Fault(kind, polls=True))
    with pytest.raises(ProviderError) as caught:
        await provider.poll(submitted)
    assert (caught.value.kind, caught.value.retry) == (ErrorKind.POLL_ERROR, Retry.POLL_AGAIN)
    assert (await polled(provider, submitted)).pictures
    assert simulator.ledger.calls_by_prompt() == {"a mug": 1}


@pytest.mark.parametrize("wire", TASK_WIRES)
async def test_a_poll_that_says_nothing_is_only_another_wait(
    wires: Wires, simulator: Simulator, wire: str
) -> None:
    simulator.faults.add(Fault(FaultKind.EMPTY, polls=True))
    assert (await made(wires.open(wire, simulator.url), wanted(wire))).pictures
    assert simulator.ledger.polls >= 2


@pytest.mark.parametrize("wire", TASK_WIRES)
async def test_a_slow_poll_is_waited_for(wires: Wires, simulator: Simulator, wire: str) -> None:
    simulator.faults.add(Fault(FaultKind.SLOW_POLL, delay_s=0.1))
    assert (await made(wires.open(wire, simulator.url), wanted(wire))).pictures


async def test_a_call_without_tasks_has_nothing_to_poll(wires: Wires, simulator: Simulator) -> None:
    with pytest.raises(ProviderError) as caught:
        await wires.open("tokenhub_sync", simulator.url).poll(Submitted("1"))
    assert caught.value.kind is ErrorKind.TASK_LOST


@pytest.mark.parametrize("wire", WIRES)
async def test_what_tencent_accepted_cannot_be_cancelled(
    wires: Wires, simulator: Simulator, wire: str
) -> None:
    assert await wires.open(wire, simulator.url).cancel(Submitted("1")) is False


# --- who may call


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
async def test_a_wrong_clock_is_the_machines_and_not_the_accounts_and_the_next_call_is_dated_right(
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
    assert error.kind is ErrorKind.PERMISSION
    assert "ap-guangzhou" in error.message


@pytest.mark.parametrize("wire", ["tokenhub_async", "tokenhub_sync"])
async def test_a_key_that_is_not_known_pauses_the_account(
    wires: Wires, start_simulator: StartSimulator, wire: str
) -> None:
    simulator = await start_simulator(api_keys=("another",))
    assert (await failure(wires.open(wire, simulator.url), wire)).kind is ErrorKind.AUTH


@pytest.mark.parametrize("wire", WIRES)
async def test_no_secret_is_shown_whatever_happens(
    wires: Wires, simulator: Simulator, wire: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    planted = (TC3_SECRET_ID, TC3_SECRET_KEY, API_KEY)
    provider = wires.open(wire, simulator.url)
    shown = [repr(provider), str(await made(provider, wanted(wire)))]
    for kind in (FaultKind.AUTH, FaultKind.DROP, FaultKind.SERVER_ERROR, FaultKind.WRONG_TYPE):
        simulator.faults.add(Fault(kind))
        error = await failure(provider, wire)
        shown += [repr(error), str(error.to_dict()), repr(error.__cause__), repr(error.__context__)]
    picture = (await made(provider, wanted(wire))).pictures[0]
    await provider.fetch(picture)
    shown += [repr(picture), *(record.getMessage() for record in caplog.records)]
    for secret in planted:
        assert secret not in "".join(shown)
    assert picture.url is not None
    assert picture.url.partition("=")[2] not in "".join(shown)


async def test_a_picture_is_fetched_only_from_public_hosts_or_the_providers_own(
    wires: Wires, simulator: Simulator
) -> None:
    provider = wires.open("tc3", simulator.url)
    with pytest.raises(ProviderError, match="not a public address"):
        await provider.fetch(Picture(url="https://169.254.169.254/latest/meta-data/"))
