"""The suite that every provider passes, on each wire: calls, faults, and answers that are lost or unreadable.

See `conformance` for the differences between the wires, and `test_conformance_tasks` for the rest of the suite.
"""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from PIL import Image

from providers.base import CallHooks, Generated, Submitted
from providers.errors import Charged, ErrorKind, Retry, Scope
from providers.simulator.drawing import Drawing, draw
from providers.simulator.faults import Fault, FaultKind
from providers.simulator.settings import Rate
from tests.providers.conformance import (
    AT_THE_DOOR,
    CASES,
    ECHOED,
    LOST,
    TASKS,
    Bench,
    Canned,
    Case,
    closed_port,
    ended,
    on,
)

PNG = draw(Drawing("x", 1, 32, 32, plain=True))
HTML = b"<html>Please sign in.</html>"


def faults(cases: list[Case]) -> pytest.MarkDecorator:
    """Each fault of a submit, on each wire."""
    pairs = [(case, fault) for case in cases for fault in case.faults()]
    ids = [f"{case.name}-{fault}" for case, fault in pairs]
    return pytest.mark.parametrize(("bench", "fault"), pairs, ids=ids, indirect=["bench"])


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
async def test_the_mode_is_that_of_the_capabilities(bench: Bench) -> None:
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
    assert (error.kind, error.charged, error.retry) == (ErrorKind.NETWORK_UNSENT, Charged.NO, Retry.UNSENT)


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


@on(CASES)
async def test_an_address_that_moved_for_now_makes_the_call_wait(bench: Bench) -> None:
    provider, _ = await bench.canned(b"", 307, location="https://api.new.example/v1/images")
    error = await bench.failure(provider)
    assert (error.kind, error.charged) == (ErrorKind.NETWORK_UNSENT, Charged.NO)
    assert "status 307 to https://api.new.example/v1/images" in error.message


@on(CASES)
@pytest.mark.parametrize("status", [301, 308])
async def test_a_moved_address_is_named_and_stops_the_account_at_no_cost(bench: Bench, status: int) -> None:
    provider, _ = await bench.canned(b"", status, location="https://api.new.example/v1/images?sig=geheim")
    error = await bench.failure(provider)
    assert (error.retry, error.scope, error.charged) == (Retry.PAUSE_QUOTA, Scope.KEY, Charged.NO)
    assert f"status {status} to https://api.new.example/v1/images" in error.message
    assert "geheim" not in error.message


@on(CASES)
async def test_a_redirect_to_a_result_may_have_been_charged(bench: Bench) -> None:
    provider, _ = await bench.canned(b"", 303, location="/result")
    error = await bench.failure(provider)
    assert (error.charged, error.http_status) == (Charged.MAYBE, 303)
    assert "to /result" in error.message
