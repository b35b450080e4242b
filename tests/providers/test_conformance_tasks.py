"""The suite that every provider passes, on each wire: fetching, tasks and their polls, and secrets."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable
from urllib.parse import quote

import orjson
import pytest

from providers.base import Generated, Picture, Submitted
from providers.errors import Charged, ErrorKind, ProviderError
from providers.simulator.drawing import Drawing, draw
from providers.simulator.faults import Fault, FaultKind
from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY, Rate
from tests.providers.conformance import (
    BAD_ENDS,
    CALLS,
    CASES,
    KEY,
    PNG_URL,
    TASKS,
    Bench,
    Canned,
    closed_port,
    ended,
    on,
)
from tests.providers.conftest import OpenProvider, Serve, request_for

PNG = draw(Drawing("x", 1, 32, 32, plain=True))
HTML = b"<html>Please sign in.</html>"


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
    kind = ErrorKind.RATE_LIMITED if fault is FaultKind.RATE_LIMIT else ErrorKind.POLL_ERROR
    assert (caught.value.kind, caught.value.call_accepted) == (kind, False)
    assert (await ended(provider, receipt)).pictures
    assert len(simulator.ledger.calls) == 1


@on(TASKS)
async def test_an_answer_about_another_task_is_no_news_of_ours(bench: Bench) -> None:
    provider, app = await bench.canned(bench.case.finished("8"))
    with pytest.raises(ProviderError, match="another task") as caught:
        await provider.poll(Submitted("7"))
    assert caught.value.kind is ErrorKind.POLL_ERROR
    app.body = orjson.dumps(bench.case.finished("7"))
    assert (await ended(provider, Submitted("7"))).pictures == (Picture(url=PNG_URL),)


@on(TASKS)
async def test_the_refusal_of_a_poll_may_name_the_request(bench: Bench) -> None:
    ids = {"id": "request-9", "task_id": "request-9"}
    provider, _ = await bench.canned({**bench.case.error("slow down"), **ids}, 429)
    with pytest.raises(ProviderError) as caught:
        await provider.poll(Submitted("7"))
    assert caught.value.kind is ErrorKind.RATE_LIMITED


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
    assert caught.value.kind is ErrorKind.RATE_LIMITED
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


SPELLINGS: list[Callable[[str], str]] = [
    lambda secret: base64.b64encode(secret.encode()).decode(),
    lambda secret: base64.urlsafe_b64encode(f"Bearer {secret}".encode()).decode().rstrip("="),
    lambda secret: quote(secret, safe=""),
]


@on(CASES)
@pytest.mark.parametrize("spelled", SPELLINGS)
async def test_a_secret_that_is_quoted_in_another_spelling_is_in_no_event(
    bench: Bench, spelled: Callable[[str], str]
) -> None:
    secret = "unusual!form,of=key/0"
    url = await bench.serve(Canned(bench.case.error(f"The key {spelled(secret)} is wrong."), 401).app)
    provider = bench.open(url + bench.case.path, api_key=secret, secret_id=secret, secret_key=secret)
    error = await bench.failure(provider)
    assert re.fullmatch(r"The key (QmVhcmVyI)?\*\*\* is wrong\.", error.message), "at most `Bearer ` is left"


async def test_a_secret_in_an_answer_of_success_is_in_no_record(
    open_provider: OpenProvider, serve: Serve
) -> None:
    canned = Canned({"data": [{"url": PNG_URL, "revised_prompt": f"a mug, {KEY}"}]})
    provider = open_provider(f"{await serve(canned.app)}/v1")
    made = await provider.submit(request_for(), timeout_s=10)
    assert isinstance(made, Generated)
    assert made.revised_prompt == "a mug, ***"


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
