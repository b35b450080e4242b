"""litellm, a client of many gateways, against the simulator's OpenAI wire."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from providers.simulator import Simulator
from providers.simulator.drawing import Drawing, draw
from providers.simulator.faults import Fault, FaultKind
from tests.sdks.conftest import KEY
from tests.sdks.worker import Sdk

FIELDS = {"model": "openai/sim-1", "prompt": "a mug", "size": "64x64"}


def account(simulator: Simulator) -> dict[str, Any]:
    return {"base_url": simulator.base_url, "api_key": KEY}


async def test_litellm_gets_the_picture(litellm: Sdk, simulator: Simulator) -> None:
    fields = {**FIELDS, "extra_body": {"seed": 7}}
    done = await litellm.call(**account(simulator), fields=fields)
    picture = draw(Drawing("a mug", 7, 64, 64, plain=True))
    assert done.get("sha256") == [hashlib.sha256(picture).hexdigest()], done


@pytest.mark.parametrize(
    ("kind", "raised", "status"),
    [
        (FaultKind.RATE_LIMIT, "RateLimitError", 429),
        (FaultKind.BILLING, "RateLimitError", 429),
        (FaultKind.AUTH, "AuthenticationError", 401),
        (FaultKind.MODERATION, "BadRequestError", 400),
        (FaultKind.SERVER_ERROR, "InternalServerError", 500),
        (FaultKind.OVERLOADED, "ServiceUnavailableError", 503),
        (FaultKind.HANG, "Timeout", 408),
    ],
)
async def test_litellm_raises_its_own_class_for_each_trouble(
    litellm: Sdk, simulator: Simulator, kind: FaultKind, raised: str, status: int
) -> None:
    # It repeats calls also when told not to, so the trouble lasts.
    simulator.faults.add(Fault(kind, count=9, retry_after_s=0 if kind is FaultKind.RATE_LIMIT else None))
    timeout_s = 0.3 if kind is FaultKind.HANG else 10
    theirs = await litellm.call(**account(simulator), fields=FIELDS, timeout_s=timeout_s)
    assert (theirs["error"], theirs["status"]) == (raised, status)


async def test_a_bad_request_is_one(litellm: Sdk, simulator: Simulator) -> None:
    theirs = await litellm.call(**account(simulator), fields={**FIELDS, "size": "1x1"})
    assert (theirs["error"], theirs["status"]) == ("BadRequestError", 400)
