"""The door for clients of OpenAI: their fields, their pictures and their errors."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis

from daemon.gateway.openai import images as door_of_openai
from tests.daemon.gateway.openai.studio import PROMPT, Studio, ids, post
from tests.daemon.gateway.rig import Door
from tests.daemon.gateway.test_pictures import png


async def test_a_request_is_answered_with_its_picture(shop: Door, studio: Studio) -> None:
    answer = await post(shop, {**PROMPT, "size": "1024x1024", "quality": "high", "output_format": "webp"})
    assert answer.status_code == 200
    body = answer.json()
    assert base64.b64decode(body["data"][0]["b64_json"]).startswith(b"picture of default//img-")
    assert isinstance(body["created"], int)
    (job,) = studio.jobs
    assert (job.route, job.size, job.params, job.output.format) == (
        "default",
        "1024x1024",
        {"quality": "high"},
        "webp",
    )


async def test_an_address_comes_where_it_is_wanted(shop: Door) -> None:
    (entry,) = (await post(shop, {**PROMPT, "response_format": "url"})).json()["data"]
    assert (await shop.http.get(entry["url"])).content.startswith(b"picture of")


async def test_a_model_may_be_a_route_or_the_model_of_one(shop: Door) -> None:
    assert [(await post(shop, {**PROMPT, "model": name})).status_code for name in ("default", "model-1")] == [
        200,
        200,
    ]
    unknown = await post(shop, {**PROMPT, "model": "gpt-9"})
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert unknown.json()["error"]["type"] == "invalid_request_error"


async def test_what_means_the_default_is_not_sent_on(shop: Door, studio: Studio) -> None:
    await post(shop, {**PROMPT, "size": "auto", "quality": "auto", "background": None, "user": "u-1"})
    (job,) = studio.jobs
    assert (job.size, job.params, job.metadata) == (None, None, {"user": "u-1"})


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "default"}, "prompt", "invalid"),
        ({**PROMPT, "n": 11}, "n", "invalid"),
        ({**PROMPT, "n": "2"}, "n", "invalid"),
        ({**PROMPT, "qualty": "high"}, "qualty", "unknown_parameter"),
        ({**PROMPT, "user": "u", "metadata": "x"}, "metadata", "invalid"),
        ({**PROMPT, "response_format": "png"}, "response_format", "invalid"),
        ({**PROMPT, "stream": 1}, "stream", "invalid"),
        ({**PROMPT, "size": "8192x8192"}, "size", "unsupported"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_stored(
    shop: Door, redis: Redis, body: dict[str, Any], param: str, code: str
) -> None:
    answer = await post(shop, body)
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)
    assert await ids(redis) == set()


async def test_a_moderated_prompt_is_the_callers_matter_and_a_fault_is_not(shop: Door) -> None:
    refused = await post(shop, {**PROMPT, "prompt": "bad"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "moderation_blocked")
    failed = await post(shop, {**PROMPT, "prompt": "refused"})
    assert (failed.status_code, failed.json()["error"]["type"]) == (502, "server_error")
    assert failed.headers["x-should-retry"] == "false"


async def test_pictures_that_were_made_come_though_another_failed(shop: Door) -> None:
    answer = await post(shop, {**PROMPT, "prompt": "half", "n": 3})
    assert (answer.status_code, len(answer.json()["data"])) == (200, 2)
    assert answer.headers["x-pixmill-failed"] == "1"


async def edit(door: Door, files: list[tuple[str, Any]], **fields: str) -> httpx2.Response:
    return await door.http.post("/v1/images/edits", data={**PROMPT, **fields}, files=files)


async def test_an_edit_sends_its_pictures_as_inputs(shop: Door, studio: Studio) -> None:
    pictures = [("image[]", ("a.png", png(), "image/png")), ("image[]", ("b.png", png(48), "image/png"))]
    answer = await edit(shop, [*pictures, ("mask", ("m.png", png(16), "image/png"))], n="2", quality="low")
    assert (answer.status_code, len(answer.json()["data"])) == (200, 2)
    job = studio.jobs[0]
    assert [one.role for one in job.inputs or []] == ["image", "image", "mask"]
    assert await shop.store.get((job.inputs or [])[1].object or "") == png(48)
    assert job.params == {"quality": "low"}


@pytest.mark.parametrize(
    ("files", "fields", "param"),
    [
        ([("mask", ("m.png", png(), "image/png"))], {}, "image"),
        ([("image", ("a.txt", b"no picture", "image/png"))], {}, "image"),
        ([("image", ("a.png", png(), "image/png")), ("photo", ("b.png", png(), "image/png"))], {}, "photo"),
        ([("image", ("a.png", png(), "image/png"))], {"n": "many"}, "n"),
        ([("image", ("a.png", png(), "image/png"))], {"qualty": "low"}, "qualty"),
    ],
)
async def test_a_wrong_form_is_named_and_no_job_begins(
    shop: Door, redis: Redis, files: list[tuple[str, Any]], fields: dict[str, str], param: str
) -> None:
    answer = await edit(shop, files, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert await ids(redis) == set()


async def test_an_edit_that_is_no_form_is_refused(shop: Door, redis: Redis) -> None:
    answer = await shop.http.post("/v1/images/edits", json=PROMPT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert await ids(redis) == set()


async def test_a_form_that_breaks_off_is_a_400(shop: Door) -> None:
    broken = await shop.http.post(
        "/v1/images/edits",
        content=b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na kettle',
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "invalid_request_error")
    unbounded = await shop.http.post(
        "/v1/images/edits", content=b"x", headers={"content-type": "multipart/form-data"}
    )
    assert unbounded.status_code == 400


async def test_answers_of_no_route_have_openais_form_too(shop: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> Any:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(door_of_openai, "begin", broken)
    for answer, status, code in (
        (await shop.http.get("/v1/images/generations"), 405, "method_not_allowed"),
        (await shop.http.get("/v1/images/variations"), 404, "not_found"),
        (await post(shop, PROMPT), 500, "internal"),
        (await post(shop, PROMPT, **{"sec-fetch-site": "cross-site"}), 403, "cross_site"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert "planted" not in answer.text
    ours = await shop.http.get("/v1/imagesque")
    assert (ours.status_code, ours.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("n", ["--5", "-", "²", "٣", "9" * 19, "9" * 20, "-" + "9" * 19, "1e3"])
async def test_a_number_of_a_form_that_cannot_be_read_is_refused(shop: Door, n: str) -> None:
    answer = await edit(shop, [("image", ("a.png", png(), "image/png"))], n=n)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")


@pytest.mark.parametrize("at", ["prompt", "\\udc00"])
async def test_a_form_of_half_characters_is_refused(shop: Door, at: str) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\nContent-Type: image/png\r\n\r\n'
    part = f'\r\n--x\r\nContent-Disposition: form-data; name="{at}"\r\n\r\n\\ud800\r\n--x--\r\n'
    kind = "multipart/form-data; boundary=x; charset=unicode_escape"
    answer = await shop.http.post(
        "/v1/images/edits", content=head + png() + part.encode(), headers={"content-type": kind}
    )
    assert (answer.status_code, "not in UTF-8" in answer.text) == (400, True)
