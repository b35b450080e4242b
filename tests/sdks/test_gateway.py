"""Clients of others whose `base_url` is the gateway: OpenAI's own SDK (2 and 3), LiteLLM, and plain HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from daemon.gateway.openai import images as door
from daemon.gateway.openai import stream
from providers.simulator.drawing import Drawing, draw
from tests.daemon.harness import eventually
from tests.sdks.proxy import Proxy
from tests.sdks.shop import Shop, open_shop
from tests.sdks.worker import Sdk
from tests.servers import RedisServer

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one shop for all tests: it takes a second to close

NUMBERS = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(redis_server.url, tmp_path_factory.mktemp("shop")) as opened:
        yield opened


def mug(how: str = "", **more: Any) -> dict[str, Any]:
    """The fields of a request whose prompt is a test's own; `how` may make it slow, or refused."""
    prompt = f"mug {next(NUMBERS)} {how}"
    return {"model": "default", "prompt": prompt, "size": "1024x1024", "extra_body": {"seed": 7}, **more}


def picture(fields: dict[str, Any]) -> str:
    """The digest of the picture that the simulator draws."""
    return hashlib.sha256(draw(Drawing(fields["prompt"], 7, 1024, 1024, plain=True))).hexdigest()


def file(name: str, seed: int) -> tuple[str, str, str]:
    drawn = draw(Drawing(name, seed, 64, 64, plain=True))
    return name, base64.b64encode(drawn).decode(), "image/png"


async def had(shop: Shop, fields: dict[str, Any], calls: int = 1) -> None:
    """Wait until the provider has had so many calls."""

    async def enough() -> bool:
        return shop.calls(fields) >= calls

    await eventually(enough)


@pytest.mark.parametrize("model", ["default", "sim-1"])
async def test_the_sdk_gets_the_picture_of_a_route_or_a_model(openai: Sdk, shop: Shop, model: str) -> None:
    fields = mug(model=model)
    done = await openai.call(**shop.account, fields=fields)
    assert done.get("sha256") == [picture(fields)], done
    assert shop.calls(fields) == 1


async def test_an_edit_reaches_the_provider_with_two_pictures_and_a_mask(openai: Sdk, shop: Shop) -> None:
    fields, images, mask = mug(), [file("one.png", 1), file("two.png", 2)], file("mask.png", 3)
    done = await openai.call(**shop.account, fields=fields, images=images, mask=mask)
    assert done.get("sha256") == [picture(fields)], done
    sent = [hashlib.sha256(base64.b64decode(data)).hexdigest() for _, data, _ in (*images, mask)]
    files = shop.simulator.ledger.calls[-1].files
    assert [file.sha256 for file in files] == sent
    assert [file.name for file in files] == ["image[]", "image[]", "mask"]


async def cut(sdk: Sdk, shop: Shop, fields: dict[str, Any], *, calls: int = 1, **more: Any) -> Any:
    """The result of a call whose connections are cut, once the provider has had so many calls."""
    async with Proxy(shop.port) as proxy:
        account = shop.through(proxy.url)
        under_way = asyncio.create_task(sdk.call(**account, fields=fields, max_retries=2, **more))
        await had(shop, fields, calls)
        if fields.get("stream"):
            await asyncio.wait_for(proxy.answering.wait(), 10)  # an earlier cut is one that the SDK repeats
        proxy.cut()
        done = await under_way
    assert proxy.cuts == calls
    return done


@pytest.mark.parametrize("edit", [False, True])
async def test_a_cut_connection_is_repeated_by_the_sdk_and_pays_once(
    openai: Sdk, shop: Shop, edit: bool
) -> None:
    # Longer than the SDK waits before it repeats its request: it finds the job under way.
    fields = mug("takes 1.5 s")
    done = await cut(openai, shop, fields, images=[file("one.png", 1)] if edit else [])
    assert done.get("sha256") == [picture(fields)], done
    assert shop.calls(fields) == 1


async def test_two_equal_requests_that_are_both_cut_pay_twice(openai: Sdk, shop: Shop) -> None:
    fields = mug("takes 1.5 s", response_format="url")
    done = await cut(openai, shop, fields, calls=2, together=2)
    # Each repetition has joined a job of its own: the addresses differ.
    assert len(set(done.get("urls", ()))) == 2, done
    assert shop.calls(fields) == 2


async def test_a_killed_client_that_starts_again_with_its_key_pays_once(openai: Sdk, shop: Shop) -> None:
    fields = mug("takes 1 s", extra_headers={"Idempotency-Key": f"order-{next(NUMBERS)}"})
    killed = openai.another()
    lost = asyncio.create_task(killed.call(**shop.account, fields=fields))
    await had(shop, fields)
    killed.close()
    with pytest.raises(AssertionError, match="has ended"):
        await lost
    done = await openai.call(**shop.account, fields=fields)
    assert done.get("sha256") == [picture(fields)], done
    assert shop.calls(fields) == 1


async def test_a_gateway_that_leaves_costs_its_callers_nothing(openai: Sdk, shop: Shop) -> None:
    fields = mug("takes 2 s")
    async with Proxy() as proxy:
        async with shop.another_gateway() as proxy.port:
            account = shop.through(proxy.url)
            under_way = asyncio.create_task(openai.call(**account, fields=fields, max_retries=3))
            await had(shop, fields)
        async with shop.another_gateway() as proxy.port:
            done = await under_way
    assert done.get("sha256") == [picture(fields)], done
    assert shop.calls(fields) == 1


async def test_a_stream_lives_through_a_proxy_that_cuts_after_silence(
    openai: Sdk, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All in a fifth of its time, for a proxy that cuts after 10 s.
    monkeypatch.setattr(stream, "PING_S", stream.PING_S / 5)
    fields = mug("takes 3 s", stream=True)
    async with Proxy(shop.port, silence_s=2) as proxy:
        done = await openai.call(**shop.through(proxy.url), fields=fields)
    assert done.get("events") == ["image_generation.completed"], done
    assert (done["sha256"], proxy.cuts, shop.calls(fields)) == ([picture(fields)], 0, 1)


async def test_a_stream_that_is_cut_and_sent_again_with_its_key_pays_once(openai: Sdk, shop: Shop) -> None:
    fields = mug("takes 1 s", stream=True, extra_headers={"Idempotency-Key": f"order-{next(NUMBERS)}"})
    # The SDK repeats no stream by itself.
    assert not (await cut(openai, shop, fields))["ok"]
    done = await openai.call(**shop.account, fields=fields)
    assert done.get("sha256") == [picture(fields)], done
    assert shop.calls(fields) == 1


async def test_without_a_stream_that_proxy_cuts_and_the_sdk_pays_once(openai: Sdk, shop: Shop) -> None:
    fields = mug("takes 1 s")
    async with Proxy(shop.port, silence_s=0.7) as proxy:
        done = await openai.call(**shop.through(proxy.url), fields=fields, max_retries=3)
    assert done.get("sha256") == [picture(fields)], done
    assert proxy.cuts >= 1
    assert shop.calls(fields) == 1


async def test_a_stream_of_an_edit_has_an_event_for_each_picture(openai: Sdk, shop: Shop) -> None:
    fields = mug(n=2, stream=True)
    done = await openai.call(**shop.account, fields=fields, images=[file("one.png", 1)])
    assert done.get("events") == ["image_edit.completed"] * 2, done
    assert len(set(done["sha256"])) == 2


async def test_a_stream_ends_with_the_refusal_of_its_prompt(openai: Sdk, shop: Shop) -> None:
    done = await openai.call(**shop.account, fields=mug("gore", stream=True))
    assert (done["error"], done.get("code")) == ("APIError", "moderation_blocked"), done


async def test_a_task_is_polled_to_its_picture(openai: Sdk, shop: Shop) -> None:
    fields = mug("takes 1 s", extra_headers={"Prefer": "respond-async"})
    done = await openai.call(**shop.account, fields=fields)
    assert done.get("statuses") == ["completed", "processing"], done
    assert done["task"]["result"]["data"][0]["url"] == done["task"]["image_url"]
    assert shop.calls(fields) == 1


@pytest.mark.parametrize(
    ("wrong", "raised", "status", "code"),
    [
        ({"how": "gore"}, "BadRequestError", 400, "moderation_blocked"),
        ({"model": "gpt-9"}, "NotFoundError", 404, "model_not_found"),
        ({"n": 11}, "BadRequestError", 400, "invalid"),
    ],
)
async def test_the_sdk_raises_the_class_for_the_trouble(
    openai: Sdk, shop: Shop, wrong: dict[str, Any], raised: str, status: int, code: str
) -> None:
    done = await openai.call(**shop.account, fields=mug(**wrong), max_retries=2)
    assert (done["error"], done["status"], done["code"]) == (raised, status, code), done
    assert done["request_id"]


async def test_a_key_that_is_not_known_is_refused(openai: Sdk, shop: Shop) -> None:
    done = await openai.call(**{**shop.account, "api_key": "pxm_wrong"}, fields=mug())
    assert (done["error"], done["code"]) == ("AuthenticationError", "unauthorized"), done


async def test_pictures_that_take_too_long_are_not_sent_for_again(
    openai: Sdk, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "WAIT_S", 0.2)
    done = await openai.call(**shop.account, fields=mug("takes 1 s"), max_retries=2)
    # A repetition would have joined the job, and got its picture.
    assert (done["error"], done["status"], done["code"]) == ("InternalServerError", 504, "still_running"), (
        done
    )
    assert done["location"].startswith(f"{shop.url}/v1/images/tasks/")


async def test_a_redis_that_is_away_is_a_503_within_two_seconds(openai: Sdk, tmp_path: Path) -> None:
    server = RedisServer()
    try:
        async with open_shop(server.url, tmp_path) as shop:
            server.kill()
            done = await openai.call(**shop.account, fields=mug(), timeout_s=2)
            assert (done["error"], done.get("status")) == ("InternalServerError", 503), done
            assert done["code"] == "redis_unavailable"
            server.start()
    finally:
        server.close()


async def test_litellm_gets_a_picture(litellm: Sdk, shop: Shop) -> None:
    fields = mug(model="openai/default")
    done = await litellm.call(**shop.account, fields=fields)
    assert done.get("sha256") == [picture(fields)], done
    assert shop.calls(fields) == 1


async def test_litellm_edits_two_pictures(litellm: Sdk, shop: Shop) -> None:
    fields, images = mug(model="openai/default"), [file("one.png", 1), file("two.png", 2)]
    done = await litellm.call(**shop.account, fields=fields, images=images, mask=file("mask.png", 3))
    assert done.get("sha256") == [picture(fields)], done
    files = shop.simulator.ledger.calls[-1].files
    assert [file.name for file in files] == ["image[]", "image[]", "mask"]


async def test_a_connection_of_litellm_that_is_cut_pays_once(litellm: Sdk, shop: Shop) -> None:
    fields = mug("takes 1.5 s", model="openai/default")
    done = await cut(litellm, shop, fields)
    assert done.get("sha256") == [picture(fields)], done
    assert shop.calls(fields) == 1


@pytest.mark.parametrize(
    ("wrong", "raised", "status"),
    [
        ({"how": "gore"}, "BadRequestError", 400),
        ({"model": "openai/gpt-9"}, "NotFoundError", 404),
    ],
)
async def test_litellm_raises_the_class_for_the_trouble(
    litellm: Sdk, shop: Shop, wrong: dict[str, Any], raised: str, status: int
) -> None:
    done = await litellm.call(**shop.account, fields=mug(**{"model": "openai/default", **wrong}))
    assert (done["error"], done["status"]) == (raised, status), done


def plain(shop: Shop) -> httpx2.AsyncClient:
    """A client that sends its key as clients of fal do."""
    return httpx2.AsyncClient(base_url=shop.url, headers={"authorization": f"Key {shop.key}"})


async def test_a_job_is_submitted_then_followed_by_the_addresses_in_its_answer(shop: Shop) -> None:
    async with plain(shop) as http:
        begun = await http.post("/v1/jobs", json={"prompt": mug()["prompt"]})
        assert begun.status_code == 202
        urls = begun.json()["urls"]

        async def succeeded() -> Any:
            return (await http.get(urls["self"])).json()["state"] == "succeeded"

        await eventually(succeeded)
        made = await http.get(urls["images"][0])
        assert made.headers["content-type"] == "image/png"


async def test_a_job_is_cancelled_by_the_address_in_its_answer(shop: Shop) -> None:
    async with plain(shop) as http:
        later = {"prompt": mug()["prompt"], "not_before": "2099-01-01T00:00:00Z"}
        urls = (await http.post("/v1/jobs", json=later)).json()["urls"]
        assert (await http.post(urls["cancel"])).json() == {"state": "cancelled", "charged": "no"}
        assert (await http.get(urls["self"])).json()["state"] == "cancelled"


@pytest.mark.parametrize("kind", ["generations", "edits"])
async def test_a_task_is_begun_at_an_address_of_its_own_and_polled(shop: Shop, kind: str) -> None:
    fields = {"prompt": mug()["prompt"], "model": "default"}
    async with plain(shop) as http:
        address = f"/v1/images/{kind}/async"
        if kind == "edits":
            form = {"image": ("one.png", base64.b64decode(file("one.png", 1)[1]), "image/png")}
            begun = await http.post(address, data=fields, files=form)
        else:
            begun = await http.post(address, json=fields)
        assert begun.status_code == 202, begun.text

        async def completed() -> Any:
            task = (await http.get(begun.json()["poll_url"])).json()
            return task["status"] == "completed" and task

        task = await eventually(completed)
        assert (await http.get(task["image_url"])).headers["content-type"] == "image/png"
    assert shop.calls(fields) == 1
