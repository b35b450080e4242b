"""The endpoint of the image studio, as its callers know it."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from daemon.gateway.callers.keys_file import add_key
from daemon.gateway.requests.identity import id_of_key
from tests.daemon.gateway.compat.decks import STUDIO
from tests.daemon.gateway.rig import Door, open_door
from tests.servers import RedisServer


async def test_a_studio_job_with_other_content_is_refused(door: Door) -> None:
    first = await door.http.post("/api/image-studio/jobs", json=STUDIO)
    assert first.json().keys() == {"job_id", "total_pictures", "warnings", "status", "urls"}
    pictures = [{"url": "https://shop.example/2.png", "name": "2.png", "stem": "2"}]
    options = {**STUDIO["options"], "sku_images_map": {"sku1": pictures}}
    answer = await door.http.post("/api/image-studio/jobs", json={**STUDIO, "options": options})
    assert (answer.status_code, answer.json()["code"]) == (409, "id_conflict")


async def test_a_studio_payload_becomes_a_batch_and_its_keys_are_dropped(door: Door, redis: Redis) -> None:
    answer = await door.http.post("/api/image-studio/jobs", json=STUDIO)
    body = answer.json()
    assert (answer.status_code, body["job_id"], body["total_pictures"]) == (202, "job-1", 1)
    assert any("api_key" in warning for warning in body["warnings"])
    view = await door.gateway.records.group("u-7/job-1")
    assert view is not None
    kept = [await redis.dump(key) for key in await redis.keys("*")]
    assert not any(b"planted" in (dump or b"") for dump in kept)
    assert (await door.http.post("/api/image-studio/jobs", json=STUDIO)).json()["job_id"] == "job-1"


async def test_with_a_key_the_tenant_is_the_keys_and_the_user_is_metadata(
    redis: Redis, redis_server: RedisServer, tmp_path: Any
) -> None:
    keys = tmp_path / "keys.json"
    key = add_key(keys, "studio", "shop", frozenset({"submit"}))
    async with open_door(redis, redis_server.url, routes=("studio",), keys_file=keys) as door:
        headers = {"authorization": f"Bearer {key}"}
        assert (
            await door.http.post("/api/image-studio/jobs", json=STUDIO, headers=headers)
        ).status_code == 202
        view = await door.gateway.records.group("shop/job-1")
        assert view is not None
        assert view.metadata["user_id"] == "u-7"


async def test_a_studio_payload_may_be_named_by_its_key_alone(door: Door) -> None:
    unnamed = {name: value for name, value in STUDIO.items() if name != "job_id"}
    key = {"idempotency-key": "order-1"}
    answers = [await door.http.post("/api/image-studio/jobs", json=unnamed, headers=key) for _ in range(2)]
    assert {answer.json()["job_id"] for answer in answers} == {id_of_key("order-1")}
    both = await door.http.post("/api/image-studio/jobs", json=STUDIO, headers=key)
    assert (both.status_code, both.json()["field"]) == (422, "job_id")


async def test_a_studio_payload_may_have_two_mebibytes(door: Door) -> None:
    pictures = [{"url": f"https://shop.example/{k}?{'x' * 400}", "stem": str(k)} for k in range(1000)]
    options = {**STUDIO["options"], "sku_images_map": {"sku1": pictures}}
    answer = await door.http.post("/api/image-studio/jobs", json={**STUDIO, "options": options})
    assert (answer.status_code, answer.json()["total_pictures"]) == (202, 1000)


async def test_a_wrong_studio_payload_names_its_field(door: Door, redis: Redis) -> None:
    answer = await door.http.post("/api/image-studio/jobs", json={**STUDIO, "mode": "x"})
    assert (answer.status_code, answer.json()["field"]) == (422, "mode")
    assert await redis.keys("pixmill:batch:*") == []


async def test_a_studio_payload_names_uploads_of_its_own_user_only(door: Door) -> None:
    async def sent(key: str) -> tuple[int, Any]:
        options = {**STUDIO["options"], "sku_images_map": {"sku1": [{"object": key, "stem": "1"}]}}
        answer = await door.http.post("/api/image-studio/jobs", json={**STUDIO, "options": options})
        return answer.status_code, answer.json().get("field")

    assert await sent("default/inputs/0a1b") == (422, "items.0.inputs.0.object")
    assert await sent("u-7/inputs/0a1b") == (202, None)
