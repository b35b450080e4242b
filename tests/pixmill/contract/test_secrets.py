"""A credential is found by its form under any name, and ordinary texts are accepted."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from pixmill.contract import Job, Rejection, parse_payload
from tests.daemon.harness import Installation

KEYS = [
    "sk-proj-4f9a8b7c6d5e4f3a2b1c_x-y",
    "sk-4f9a8b7c6d5e4f3a2b1c",
    "sk-or-v1-0123456789abcdef0123456789abcdef",
    "ms-0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f",
    "AKIDz8krbsJ5yKBZQpn74WFkmLPx3gnPhESA",
    "AKIAIOSFODNN7EXAMPLE",
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "pxm_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw-MfKQ9r8GKY",
    "Authorization is Bearer 4f9a8b7c6d5e4f3a2b1c",
]
PLACES: list[tuple[str, Any]] = [
    ("metadata.note", lambda key: {"metadata": {"note": key}}),
    ("params.style", lambda key: {"params": {"style": f"as {key}"}}),
    ("prompt", lambda key: {"prompt": f"a kettle {key}"}),
    ("x_own.0.deep", lambda key: {"x_own": [{"deep": key}]}),
]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[:10])
@pytest.mark.parametrize(("path", "put"), PLACES, ids=[path for path, _ in PLACES])
def test_a_value_in_the_form_of_a_credential_is_refused_where_it_stands(
    key: str, path: str, put: Any
) -> None:
    with pytest.raises(Rejection) as caught:
        parse_payload(orjson.dumps({"id": "a", "prompt": "x", **put(key)}))
    assert (caught.value.code, caught.value.field) == ("secret_in_payload", path)
    assert key not in str(caught.value)


def test_a_name_in_the_form_of_a_credential_is_refused_and_not_shown() -> None:
    with pytest.raises(Rejection) as caught:
        parse_payload(orjson.dumps({"id": "a", "prompt": "x", "x_own": {KEYS[1]: 1}}))
    assert (caught.value.code, caught.value.field) == ("secret_in_payload", "x_own.…")


@pytest.mark.parametrize(
    "text",
    [
        "sk-autumn-collection-red-kettle",
        "ms-office-background-photo-2026",
        "sku-0123456789abcdef0123456789abcdef",
        "AKID is not here, nor Bearer of bad news, nor whsec_",
        "a bearer of 20 bags, basic white",
        "0123456789abcdef0123456789abcdef0123456789abcdef",
    ],
)
def test_texts_that_resemble_a_credential_are_accepted(text: str) -> None:
    job = parse_payload(orjson.dumps({"id": "a", "prompt": text, "metadata": {"sku": text}}))
    assert isinstance(job, Job)


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260101%2Fus-east-1&X-Amz-Signature=0123456789abcdef",
        "q-sign-algorithm=sha1&q-ak=AKIDz8krbsJ5yKBZQpn74WFkmLPx3gnPhESA&q-signature=0123456789abcdef",
    ],
)
def test_an_input_may_have_a_signed_address(query: str) -> None:
    job = {"id": "a", "prompt": "x", "inputs": [{"url": f"https://bucket.example/a.png?{query}"}]}
    assert isinstance(parse_payload(orjson.dumps(job)), Job)


@pytest.mark.parametrize(
    "data",
    [
        '{"id":"a","prompt":"x","metadata":{"note":"%s"}}',  # whole
        '{"id":"a","prompt":5,"metadata":{"note":"%s"}}',  # refused for another reason as well
        '{"id":"a","metadata":{"note":"%s"}',  # not JSON
        '{"id":"a","prompt":"%s"}' + " " * 300_000,  # too large
    ],
    ids=["whole", "invalid", "malformed", "too large"],
)
async def test_no_copy_of_a_credential_is_kept(redis: Redis, data: str) -> None:
    installation = Installation(redis)
    await installation.add(data % KEYS[0])
    await installation.add("{}", type=f"made.up.{KEYS[0]}")
    for _ in range(5):
        await installation.take_all()
        await installation.redis.xautoclaim(installation.keys.jobs, "intake", "w1", 0)
        pending = await installation.redis.xrange(installation.keys.jobs)
        await installation.intake.take([(entry.decode(), fields) for entry, fields in pending])
    assert len(await installation.dead()) == 2
    assert KEYS[0] not in str(await installation.dead()) + str(await installation.events())
    assert await installation.redis.xlen(installation.keys.jobs) == 0
