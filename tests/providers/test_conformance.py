"""The suite that every provider passes, on each of its wires: see `conformance` for what differs between them."""

from __future__ import annotations

import asyncio
import io
import logging
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from PIL import Image

from providers.base import CallHooks, Generated, Picture, Submitted
from providers.errors import Charged, ErrorKind, ProviderError, Retry
from providers.simulator.drawing import Drawing, draw
from providers.simulator.faults import Fault, FaultKind
from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY, Rate
from tests.providers.conformance import (
    AT_THE_DOOR,
    BAD_ENDS,
    CALLS,
    CASES,
    ECHOED,
    KEY,
    LOST,
    TASKS,
    Bench,
    Canned,
    Case,
    closed_port,
    ended,
)

PNG = draw(Drawing("x", 1, 32, 32, plain=True))
HTML = b"<html>Please sign in.</html>"


def faults(cases: list[Case]) -> pytest.MarkDecorator:
    """Each fault of a submit, on each wire."""
    pairs = [(case, fault) for case in cases for fault in case.faults()]
    ids = [f"{case.name}-{fault}" for case, fault in pairs]
    return pytest.mark.parametrize(("bench", "fault"), pairs, ids=ids, indirect=["bench"])


def on(cases: list[Case]) -> pytest.MarkDecorator:
    """On each of these wires."""
    return pytest.mark.parametrize("bench", cases, ids=lambda case: case.name, indirect=True)


@pytest.fixture
def bench(request: pytest.FixtureRequest, stack: AsyncExitStack) -> Bench:
    return Bench(request.param, stack)


# --- pictures


@on(CASES)
async def test_a_call_ends_in_one_picture_of_its_size(bench: Bench) -> None:
    provider, simulator = await bench.simulated()
    made = await bench.made(provider)
    assert Image.open(io.BytesIO(await provider.fetch(made.pictures[0]))).size == (1024, 1024)
    assert simulator.ledger.calls_by_prompt() == {"a mug": 1}
    assert (simulator.ledger.billed(), simulator.ledger.in_flight) == (1, 0)


@on(CASES)
async def test_the_same_seed_makes_the_same_picture(bench: Bench) -> None:
    provider, _ = await bench.simulated(plain=False)
    seeds = [7, 7, 8, None, None]
    made = [(await bench.made(provider, seed=seed, size="512x512")).pictures[0] for seed in seeds]
    seven, again, eight, some, other = [await provider.fetch(picture) for picture in made]
    assert seven == again
    assert len({seven, eight, some, other}) == 4


@on(CASES)
async def test_the_mode_is_what_the_capabilities_say(bench: Bench) -> None:
    provider, _ = await bench.simulated()
    answer = await provider.submit(bench.case.request(), timeout_s=10)
    assert provider.capabilities(bench.case.model).mode == bench.case.mode
    assert isinstance(answer, Submitted if bench.case.mode == "task" else Generated)


@on(CASES)
@pytest.mark.parametrize("status", [200, 201, 202, 203])
async def test_any_status_of_success_accepts_a_call(bench: Bench, status: int) -> None:
    provider, canned = await bench.canned(bench.case.accepted, status)
    assert await provider.submit(bench.case.request(), timeout_s=10)
    assert len(canned.seen) == 1


@on(CASES)
async def test_an_answer_carries_its_rate_headers_alone(bench: Bench) -> None:
    provider, _ = await bench.canned(bench.case.accepted, x_ratelimit_remaining="7", x_secret="planted")
    answer = await provider.submit(bench.case.request(), timeout_s=10)
    assert answer.headers.keys() == {"x-ratelimit-remaining", "date"}


@on(CASES)
async def test_hooks_run_around_the_one_request_of_a_submit(bench: Bench) -> None:
    provider, simulator = await bench.simulated()
    calls: list[int] = []

    async def before_send(_rtt_s: float | None) -> None:
        calls.append(len(simulator.ledger.calls))

    hooks = CallHooks(before_send, lambda: calls.append(-1))
    await provider.submit(bench.case.request(), timeout_s=10, hooks=hooks)
    assert calls == [0, -1]


@on(TASKS)
async def test_hooks_run_around_the_one_request_of_a_poll(bench: Bench) -> None:
    provider, simulator = await bench.simulated()
    receipt = await bench.submitted(provider)
    calls: list[int] = []

    async def before_send(_rtt_s: float | None) -> None:
        calls.append(simulator.ledger.polls)

    await provider.poll(receipt, hooks=CallHooks(before_send))
    assert calls == [0]


# --- faults of a submit


@faults(CASES)
async def test_each_fault_is_sorted_and_its_call_is_sent_once(bench: Bench, fault: FaultKind) -> None:
    provider, simulator = await bench.simulated()
    simulator.faults.add(Fault(fault))
    error = await bench.failure(provider, timeout_s=0.4 if fault is FaultKind.HANG else 10)
    assert error.kind is bench.case.kind_of(fault)
    assert error.message
    assert len(simulator.ledger.calls) == 1
    assert (await bench.made(provider)).pictures


@faults(CASES)
async def test_a_fault_is_charged_as_its_error_says(bench: Bench, fault: FaultKind) -> None:
    provider, simulator = await bench.simulated()
    simulator.faults.add(Fault(fault))
    error = await bench.failure(provider, timeout_s=0.4 if fault is FaultKind.HANG else 10)
    # Perhaps the rejected content is a picture that was made.
    unclear = bench.case.name == "hunyuan-tokenhub-sync" and fault is FaultKind.MODERATION
    if fault in AT_THE_DOOR and not unclear:
        assert (error.charged, simulator.ledger.billed()) == (Charged.NO, 0)
    else:
        assert error.charged is not Charged.NO or fault is FaultKind.WITHHELD
    if fault in LOST:
        assert error.retry is Retry.UNKNOWN_OUTCOME
        async with asyncio.timeout(10):
            while not simulator.ledger.billed():
                await asyncio.sleep(0.005)


@on(CASES)
@pytest.mark.parametrize("wait_s", [None, 7.0])
async def test_a_429_has_the_wait_that_the_provider_names(bench: Bench, wait_s: float | None) -> None:
    provider, simulator = await bench.simulated()
    simulator.faults.add(Fault(FaultKind.RATE_LIMIT, retry_after_s=wait_s))
    error = await bench.failure(provider)
    assert (error.kind, error.retry) == (ErrorKind.RATE_LIMITED, Retry.AFTER_THROTTLE)
    assert error.retry_after_s == (wait_s if bench.case.tells_wait else None)


@on(CASES)
async def test_a_wait_of_hours_is_an_exhausted_allowance(bench: Bench) -> None:
    provider, _ = await bench.canned(bench.case.error("later"), 429, retry_after="7200")
    error = await bench.failure(provider)
    assert (error.kind, error.retry_after_s) == (ErrorKind.QUOTA_EXHAUSTED, 7200.0)


@on(CASES)
async def test_a_402_with_a_wait_is_no_empty_account(bench: Bench) -> None:
    provider, _ = await bench.canned(bench.case.error("pay"), 402, retry_after="4")
    error = await bench.failure(provider)
    assert (error.kind, error.retry_after_s) == (ErrorKind.BUDGET_IN_FLIGHT, 4.0)


@on(CASES)
async def test_the_rate_of_calls_is_enforced(bench: Bench) -> None:
    provider, _ = await bench.simulated(requests=Rate(1, 60))
    await bench.made(provider)
    assert (await bench.failure(provider)).kind is ErrorKind.RATE_LIMITED


@on(TASKS)
async def test_a_running_task_holds_its_place_at_the_provider(bench: Bench) -> None:
    provider, simulator = await bench.simulated(in_flight=1, latency_s=(0.2, 0.2))
    receipt = await bench.submitted(provider)
    error = await bench.failure(provider)
    assert (error.kind, error.retry) == (ErrorKind.CONCURRENCY_LIMITED, Retry.AFTER_THROTTLE)
    await ended(provider, receipt)
    await bench.made(provider)
    assert simulator.ledger.max_in_flight == 1


@on(CASES)
async def test_a_forbidden_prompt_is_moderated_and_costs_nothing(bench: Bench) -> None:
    provider, simulator = await bench.simulated()
    error = await bench.failure(provider, "a forbidden thing")
    assert (error.kind, error.retry) == (ErrorKind.MODERATION_INPUT, Retry.NEVER)
    assert simulator.ledger.billed() == 0


@on(CASES)
@pytest.mark.parametrize("prompt", ECHOED)
@pytest.mark.parametrize("status", [200, 400, 403, 413, 422, 451, 500])
async def test_a_quoted_prompt_stops_and_slows_no_account(bench: Bench, prompt: str, status: int) -> None:
    provider, _ = await bench.canned(bench.case.error(f"Invalid prompt: '{prompt}'."), status)
    error = await bench.failure(provider, prompt)
    assert error.retry not in (Retry.PAUSE_QUOTA, Retry.AFTER_THROTTLE)
    assert error.retry_after_s is None


@on(CASES)
async def test_the_words_of_a_page_do_not_sort_a_refusal(bench: Bench) -> None:
    page = b"<html>Free allocated quota exceeded? Our billing page explains daily limits.</html>"
    provider, _ = await bench.canned(page, 429)
    assert (await bench.failure(provider)).kind is ErrorKind.RATE_LIMITED


@on(CASES)
async def test_an_unknown_key_pauses_the_account(bench: Bench) -> None:
    _, simulator = await bench.simulated(api_keys=("another",))
    provider = bench.open(simulator.url + bench.case.path, secret_id="AKIDanother")
    error = await bench.failure(provider)
    assert (error.kind, error.retry) == (ErrorKind.AUTH, Retry.PAUSE_QUOTA)


# --- answers that are lost or unreadable


@on(CASES)
async def test_a_refused_connection_sent_nothing(bench: Bench) -> None:
    error = await bench.failure(bench.open(f"http://127.0.0.1:{await closed_port()}{bench.case.path}"))
    assert (error.kind, error.charged, error.retry) == (ErrorKind.NETWORK_UNSENT, Charged.NO, Retry.BACKOFF)


@on(CASES)
async def test_an_unknown_host_name_sent_nothing(bench: Bench) -> None:
    error = await bench.failure(bench.open(f"http://no-such-host.invalid{bench.case.path}"))
    assert error.kind is ErrorKind.NETWORK_UNSENT


@on(CASES)
async def test_a_dribbling_answer_is_given_up_in_time(bench: Bench) -> None:
    async def dribble(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await asyncio.sleep(0.01)

    provider = bench.open(await bench.serve(dribble) + bench.case.path)
    error = await bench.failure(provider, timeout_s=0.3)
    assert (error.kind, error.charged) == (ErrorKind.AMBIGUOUS_SUBMIT, Charged.MAYBE)


@on(CASES)
@pytest.mark.parametrize("body", [HTML, b"", b"[1, 2]"])
async def test_an_unreadable_answer_leaves_the_decision_to_the_job(bench: Bench, body: bytes) -> None:
    """The call was taken, and may have been paid for: it is like a lost answer."""
    provider, canned = await bench.canned(body)
    error = await bench.failure(provider)
    assert (error.kind, error.retry, error.charged) == (
        ErrorKind.BAD_RESPONSE,
        Retry.UNKNOWN_OUTCOME,
        Charged.MAYBE,
    )
    assert len(canned.seen) == 1


@on(CASES)
async def test_an_answer_beyond_the_limit_is_not_read_to_its_end(bench: Bench) -> None:
    provider, _ = await bench.canned(b"x" * 2_000_000)
    provider.max_answer_bytes = 1_000_000  # type: ignore[attr-defined]  # of HttpProvider
    assert (await bench.failure(provider)).kind is ErrorKind.BAD_RESPONSE


@on(CASES)
async def test_a_redirect_is_not_followed_with_the_key(bench: Bench) -> None:
    elsewhere = Canned(bench.case.accepted)
    provider, _ = await bench.canned(b"", 307, location=f"{await bench.serve(elsewhere.app)}/x")
    await bench.failure(provider)
    assert not elsewhere.seen


# --- fetching


@on(CASES)
@pytest.mark.parametrize(
    "url", ["https://169.254.169.254/latest/meta-data/", "http://10.0.0.7/x.png", "file:///etc/passwd"]
)
async def test_an_address_in_a_private_network_is_refused(bench: Bench, url: str) -> None:
    provider = bench.open(f"http://127.0.0.1:9{bench.case.path}")
    with pytest.raises(ProviderError) as caught:
        await provider.fetch(Picture(url=url))
    assert (caught.value.kind, caught.value.charged) == (ErrorKind.RESULT_DOWNLOAD, Charged.YES)


@on(CASES)
async def test_a_dead_address_is_an_expired_result_that_was_paid_for(bench: Bench) -> None:
    provider, simulator = await bench.simulated()
    with pytest.raises(ProviderError) as caught:
        await provider.fetch(Picture(url=f"{simulator.url}/simulator/pictures/gone.png"))
    assert (caught.value.kind, caught.value.charged) == (ErrorKind.RESULT_EXPIRED, Charged.YES)


@on(CASES)
async def test_a_picture_is_fetched_without_the_key_and_its_signature_is_hidden(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    files = Canned(PNG)
    url = await bench.serve(files.app)
    provider = bench.open(url + bench.case.path)
    picture = Picture(url=f"{url}/x.png?Signature=planted-signature")
    assert await provider.fetch(picture) == PNG
    assert "authorization" not in files.seen[0][0].headers
    files.status = 500
    with pytest.raises(ProviderError) as caught:
        await provider.fetch(picture)
    assert "planted-signature" not in f"{picture!r} {caught.value!r} {caught.value.to_dict()} {caplog.text}"


# --- tasks


@on(CALLS)
async def test_a_call_without_tasks_has_nothing_to_poll(bench: Bench) -> None:
    with pytest.raises(ProviderError, match=f"{bench.case.provider} provider has no tasks") as caught:
        await bench.open(f"http://127.0.0.1:9{bench.case.path}").poll(Submitted("7"))
    assert caught.value.kind is ErrorKind.TASK_LOST


@on(CASES)
async def test_an_accepted_call_cannot_be_cancelled(bench: Bench) -> None:
    assert await bench.open(f"http://127.0.0.1:9{bench.case.path}").cancel(Submitted("7")) is False


@on(TASKS)
async def test_another_provider_object_finishes_a_written_receipt(bench: Bench) -> None:
    """The process that submitted is gone; only the receipt's JSON is left."""
    first, simulator = await bench.simulated()
    receipt = orjson.dumps((await bench.submitted(first)).to_dict())
    await first.aclose()
    second = bench.open(simulator.url + bench.case.path)
    made = await ended(second, Submitted.from_dict(orjson.loads(receipt)))
    assert await second.fetch(made.pictures[0])
    assert len(simulator.ledger.calls) == 1


@on(TASKS)
@pytest.mark.parametrize("fault", BAD_ENDS)
async def test_each_bad_end_of_a_task_is_sorted(bench: Bench, fault: FaultKind) -> None:
    provider, simulator = await bench.simulated()
    simulator.faults.add(Fault(fault))
    receipt = await bench.submitted(provider)
    with pytest.raises(ProviderError) as caught:
        await ended(provider, receipt)
    assert (caught.value.kind, caught.value.charged) == (BAD_ENDS[fault], Charged.MAYBE)


@on(TASKS)
@pytest.mark.parametrize(
    "fault",
    [
        *(
            FaultKind.RATE_LIMIT,
            FaultKind.BILLING,
            FaultKind.AUTH,
            FaultKind.OVERLOADED,
            FaultKind.SERVER_ERROR,
        ),
        *(FaultKind.BAD_GATEWAY, FaultKind.DROP, FaultKind.HANG, FaultKind.TRUNCATE, FaultKind.WRONG_TYPE),
    ],
)
async def test_a_poll_without_a_good_answer_gives_up_nothing(bench: Bench, fault: FaultKind) -> None:
    provider, simulator = await bench.simulated()
    provider.poll_timeout_s = 0.5  # type: ignore[attr-defined]  # of HttpProvider
    receipt = await bench.submitted(provider)
    simulator.faults.add(Fault(fault, polls=True))
    with pytest.raises(ProviderError) as caught:
        await provider.poll(receipt)
    assert (caught.value.kind, caught.value.retry) == (ErrorKind.POLL_ERROR, Retry.POLL_AGAIN)
    assert (await ended(provider, receipt)).pictures
    assert len(simulator.ledger.calls) == 1


@on(TASKS)
async def test_a_poll_that_cannot_connect_is_no_news(bench: Bench) -> None:
    provider = bench.open(f"http://127.0.0.1:{await closed_port()}{bench.case.path}")
    with pytest.raises(ProviderError) as caught:
        await provider.poll(Submitted("7"))
    assert caught.value.kind is ErrorKind.POLL_ERROR


@on(TASKS)
async def test_polls_have_a_limit_of_their_own(bench: Bench) -> None:
    provider, _ = await bench.simulated(polls=Rate(1, 60))
    receipt = await bench.submitted(provider)
    await provider.poll(receipt)
    with pytest.raises(ProviderError) as caught:
        await provider.poll(receipt)
    assert caught.value.kind is ErrorKind.POLL_ERROR
    if bench.case.tells_wait:
        assert 50 < (caught.value.retry_after_s or 0) <= 61


@on(TASKS)
async def test_a_slow_poll_is_waited_for(bench: Bench) -> None:
    provider, simulator = await bench.simulated()
    receipt = await bench.submitted(provider)
    simulator.faults.add(Fault(FaultKind.SLOW_POLL, delay_s=0.05))
    assert (await ended(provider, receipt)).pictures


@on([*TASKS, CALLS[-1]])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (FaultKind.URL_EXPIRED, ErrorKind.RESULT_EXPIRED),
        (FaultKind.NOT_A_PICTURE, ErrorKind.BAD_RESPONSE),
    ],
)
async def test_a_bad_address_of_a_task_is_sorted(bench: Bench, fault: FaultKind, kind: ErrorKind) -> None:
    provider, simulator = await bench.simulated()
    simulator.faults.add(Fault(fault))
    picture = (await bench.made(provider)).pictures[0]
    with pytest.raises(ProviderError) as caught:
        await provider.fetch(picture)
    assert caught.value.kind is kind
    assert picture.url is not None
    assert picture.url.partition("?")[2] not in repr(caught.value) + repr(picture)


# --- secrets


@on(CASES)
@pytest.mark.parametrize("secret", [KEY, "unusual!form,of=key"])
@pytest.mark.parametrize("status", [200, 401, 429, 500])
async def test_a_quoted_secret_is_in_no_repr_error_or_log(
    bench: Bench, caplog: pytest.LogCaptureFixture, secret: str, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    url = await bench.serve(Canned(bench.case.error(f"The key {secret} is wrong."), status).app)
    provider = bench.open(url + bench.case.path, api_key=secret, secret_id=secret, secret_key=secret)
    error = await bench.failure(provider)
    shown = [repr(provider), str(provider), f"{error} {error!r} {error.to_dict()} {error.args!r}"]
    shown += [repr(error.__cause__), repr(error.__context__), caplog.text]
    assert secret not in " ".join(shown)


@on(CASES)
async def test_no_secret_is_shown_on_the_whole_way_to_a_picture(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    provider, simulator = await bench.simulated()
    shown = []
    for fault in (FaultKind.AUTH, FaultKind.DROP, FaultKind.SERVER_ERROR, FaultKind.WRONG_TYPE):
        simulator.faults.add(Fault(fault))
        error = await bench.failure(provider)
        shown += [repr(error), str(error.to_dict()), repr(error.__cause__), repr(error.__context__)]
    made = await bench.made(provider)
    await provider.fetch(made.pictures[0])
    shown += [repr(provider), repr(made), caplog.text, str(simulator.ledger.entries())]
    for secret in (KEY, TC3_SECRET_ID, TC3_SECRET_KEY):
        assert secret not in " ".join(shown)
    assert "q-signature" not in repr(made) + caplog.text
