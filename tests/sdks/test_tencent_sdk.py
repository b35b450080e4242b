"""Tencent Cloud's own SDK against the simulator, what it sends beside what we send, and its signature beside ours."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from providers.base import Pending, Provider, Request, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.hunyuan.errors import kind_of_code
from providers.hunyuan.provider import create
from providers.hunyuan.signature import authorization
from providers.simulator import Simulator
from providers.simulator.drawing import Drawing, draw
from providers.simulator.faults import Fault, FaultKind
from providers.simulator.recorder import Recorded
from providers.simulator.settings import TC3_SECRET_ID, TC3_SECRET_KEY
from tests.sdks.conftest import StartSimulator
from tests.sdks.same_request import assert_same
from tests.sdks.worker import Sdk

FIELDS = {"Prompt": "a mug, 杯子", "Resolution": "512:512", "Seed": 7, "Revise": 0}
REQUEST = Request(
    request_id="r1", model="hunyuan-image-3.0", prompt="a mug, 杯子", size="512x512", seed=7,
    params={"revise": False},
)  # fmt: skip

# What the SDK says of itself, and how it writes JSON (with spaces, and without letters beyond ASCII).
# The signature is over those bytes, so it differs too; what else its header says is compared.
ALLOWED = ("user-agent", "x-tc-requestclient", "x-tc-traceid", "content-length", "authorization")


@pytest.fixture
def ours(stack: AsyncExitStack, simulator: Simulator) -> Provider:
    secrets = {"secret_id": TC3_SECRET_ID, "secret_key": TC3_SECRET_KEY}

    def second_of_the_sdk() -> float:
        """What is signed has the time in it, so a comparison needs the same second."""
        sent = (dict(request.headers) for request in reversed(simulator.ledger.requests))
        return float(next(headers["x-tc-timestamp"] for headers in sent))

    provider = create(base_url=simulator.url, secrets=secrets, options={"wire": "tc3"}, now=second_of_the_sdk)
    stack.push_async_callback(provider.aclose)
    return provider


def account(simulator: Simulator) -> dict[str, Any]:
    return {
        "endpoint": f"127.0.0.1:{simulator.port}",
        "secret_id": TC3_SECRET_ID,
        "secret_key": TC3_SECRET_KEY,
    }


async def submit(sdk: Sdk, simulator: Simulator, **more: Any) -> dict[str, Any]:
    given = {"op": "typed", "fields": FIELDS, **account(simulator), **more}
    return await sdk.call(action="SubmitTextToImageJob", **given)


async def query(sdk: Sdk, simulator: Simulator, number: str) -> dict[str, Any]:
    fields = {"JobId": number}
    return await sdk.call(op="typed", action="QueryTextToImageJob", fields=fields, **account(simulator))


async def ended(sdk: Sdk, simulator: Simulator, number: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            answer = await query(sdk, simulator, number)
            if answer["fields"]["JobStatusCode"] not in ("1", "2"):
                fields = answer["fields"]
                assert isinstance(fields, dict)
                return fields


async def test_the_sdk_submits_a_job_polls_it_and_finds_the_picture(
    tencent: Sdk, simulator: Simulator
) -> None:
    submitted = await submit(tencent, simulator)
    assert submitted["ok"], submitted
    fields = await ended(tencent, simulator, submitted["fields"]["JobId"])
    assert (fields["JobStatusCode"], fields["ResultDetails"]) == ("5", ["Success"])
    assert all(fields[name] is not None for name in fields), "a field that the SDK knows is missing"
    async with httpx2.AsyncClient() as http:
        picture = (await http.get(fields["ResultImage"][0])).content
    assert picture == draw(Drawing("a mug, 杯子", 7, 512, 512, plain=True))


async def test_the_action_can_be_called_by_name_as_newer_sdks_must(
    tencent: Sdk, simulator: Simulator
) -> None:
    assert (await submit(tencent, simulator, op="by_name"))["fields"]["JobId"].isdigit()


async def test_submits_and_polls_are_sent_as_the_sdk_sends_them(
    tencent: Sdk, simulator: Simulator, ours: Provider
) -> None:
    submitted = await submit(tencent, simulator)
    receipt = await ours.submit(REQUEST, timeout_s=10)
    assert isinstance(receipt, Submitted)
    number = submitted["fields"]["JobId"]
    assert (await query(tencent, simulator, number))["ok"]
    assert await ours.poll(Submitted(number))
    submit_theirs, submit_mine, poll_theirs, poll_mine = simulator.ledger.requests
    assert_same(submit_mine, submit_theirs, but=ALLOWED)
    assert_same(poll_mine, poll_theirs, but=ALLOWED)
    assert _without_signature(submit_mine) == _without_signature(submit_theirs)
    assert _without_signature(poll_mine) == _without_signature(poll_theirs)


@pytest.mark.parametrize(
    ("kind", "code", "sorted_as"),
    [
        (FaultKind.RATE_LIMIT, "RequestLimitExceeded", ErrorKind.RATE_LIMITED),
        (FaultKind.CONCURRENCY, "RequestLimitExceeded.JobNumExceed", ErrorKind.CONCURRENCY_LIMITED),
        (FaultKind.BILLING, "ResourceUnavailable.InArrears", ErrorKind.BILLING_EXHAUSTED),
        (FaultKind.AUTH, "AuthFailure.SecretIdNotFound", ErrorKind.AUTH),
        (FaultKind.MODERATION, "OperationDenied.TextIllegalDetected", ErrorKind.MODERATION_INPUT),
        (FaultKind.SERVER_ERROR, "FailedOperation.InnerError", ErrorKind.PROVIDER_FAULT),
        (FaultKind.OVERLOADED, "ServerNetworkError", ErrorKind.OVERLOADED),
        (FaultKind.BAD_GATEWAY, "ServerNetworkError", ErrorKind.AMBIGUOUS_SUBMIT),
        (FaultKind.DROP, "ClientNetworkError", ErrorKind.AMBIGUOUS_SUBMIT),
        (FaultKind.HANG, "ClientNetworkError", ErrorKind.AMBIGUOUS_SUBMIT),
    ],
)
async def test_the_sdk_raises_for_each_trouble_the_code_that_we_sort(
    tencent: Sdk, simulator: Simulator, ours: Provider, kind: FaultKind, code: str, sorted_as: ErrorKind
) -> None:
    """Tencent tells no Retry-After: how long to wait is not a part of this wire."""
    simulator.faults.add(Fault(kind, count=2))
    timeout_s = 0.3 if kind is FaultKind.HANG else 10
    theirs = await submit(tencent, simulator, timeout_s=timeout_s)
    assert (theirs["error"], theirs["code"]) == ("TencentCloudSDKException", code)
    with pytest.raises(ProviderError) as mine:
        await ours.submit(REQUEST, timeout_s=timeout_s)
    assert mine.value.kind is sorted_as
    if code not in ("ServerNetworkError", "ClientNetworkError"):  # which the SDK made up itself
        assert mine.value.provider_code == code
        assert theirs["request_id"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"Prompt": "x" * 8193}, "InvalidParameterValue.TextLengthExceed"),
        ({"Prompt": "a mug", "Seed": 0}, "InvalidParameterValue.ParameterValueError"),
        ({"Prompt": "a mug", "Resolution": "64:64"}, "InvalidParameterValue.ParameterValueError"),
        ({"Resolution": "512:512"}, "MissingParameter"),
    ],
)
async def test_a_bad_request_has_the_vendors_code(
    tencent: Sdk, simulator: Simulator, fields: dict[str, Any], code: str
) -> None:
    assert (await submit(tencent, simulator, fields=fields))["code"] == code


async def test_a_signature_of_another_secret_is_refused(tencent: Sdk, simulator: Simulator) -> None:
    theirs = await submit(tencent, simulator, secret_key="another")
    assert theirs["code"] == "AuthFailure.SignatureFailure"


async def test_a_second_job_is_refused_while_one_runs(tencent: Sdk, start_simulator: StartSimulator) -> None:
    simulator = await start_simulator(in_flight=1)
    simulator.faults.add(Fault(FaultKind.TASK_STUCK))
    assert (await submit(tencent, simulator))["ok"]
    assert (await submit(tencent, simulator))["code"] == "RequestLimitExceeded.JobNumExceed"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (FaultKind.TASK_FAILED, "FailedOperation.ServerError"),
        (FaultKind.TASK_MODERATED, "FailedOperation.GenerateImageFailed"),
    ],
)
async def test_a_failed_job_reports_its_reason_to_the_sdk_and_to_us(
    tencent: Sdk, simulator: Simulator, ours: Provider, kind: FaultKind, code: str
) -> None:
    simulator.faults.add(Fault(kind))
    submitted = await submit(tencent, simulator)
    number = submitted["fields"]["JobId"]
    fields = await ended(tencent, simulator, number)
    assert fields["JobStatusCode"] == "4"
    assert code.endswith(fields["JobErrorCode"])
    with pytest.raises(ProviderError) as mine:
        assert not isinstance(await ours.poll(Submitted(number)), Pending)
    assert mine.value.kind is kind_of_code(code)


async def test_a_job_that_nobody_knows_is_named_as_the_vendor_names_it(
    tencent: Sdk, simulator: Simulator
) -> None:
    assert (await query(tencent, simulator, "1"))["code"] == "FailedOperation.JobNotExist"


async def test_every_code_that_the_sdk_lists_is_one_that_we_sort(tencent: Sdk) -> None:
    listed = (await tencent.call(op="codes"))["codes"]
    assert len(listed) > 25
    assert [code for code in listed if kind_of_code(code) is None] == []


# Letters of every kind, but no lone surrogates: they have no bytes. Secrets are what both clients accept as one.
SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=TEXT,
    timestamp_s=st.integers(0, 4_102_444_800),
    secret_key=SECRETS,
    host=st.from_regex(r"[a-z0-9][a-z0-9.-]{0,30}(:[1-9][0-9]{0,4})?", fullmatch=True),
)
async def test_our_signature_is_the_sdks(
    tencent: Sdk, body: str, timestamp_s: int, secret_key: str, host: str
) -> None:
    content_type = "application/json"
    date = datetime.fromtimestamp(timestamp_s, UTC).strftime("%Y-%m-%d")
    theirs = await tencent.call(
        op="signature",
        body=body,
        timestamp_s=timestamp_s,
        secret_key=secret_key,
        host=host,
        content_type=content_type,
        date=date,
    )
    mine = authorization(
        secret_id="id",
        secret_key=secret_key,
        service="aiart",
        host=host,
        content_type=content_type,
        body=body.encode(),
        timestamp_s=timestamp_s,
    )
    assert mine.rpartition("Signature=")[2] == theirs["signature"]


def _without_signature(request: Recorded) -> str:
    return re.sub(r"Signature=[0-9a-f]{64}$", "", dict(request.headers)["authorization"])
