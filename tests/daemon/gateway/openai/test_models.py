"""Clients of OpenAI that list the models first find the routes."""

from __future__ import annotations

from pathlib import Path

from redis.asyncio import Redis

from tests.daemon.gateway.callers.keys import made
from tests.daemon.gateway.openai.studio import PROMPT, post
from tests.daemon.gateway.rig import Door, open_door
from tests.servers import RedisServer


async def test_the_models_are_the_routes_in_openais_form(shop: Door) -> None:
    answer = await shop.http.get("/v1/models")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["object"], [model["id"] for model in body["data"]]) == ("list", [*shop.gateway.routes])
    for model in body["data"]:
        provider = shop.gateway.routes[model["id"]].provider.name
        assert model == {"id": model["id"], "object": "model", "created": 0, "owned_by": provider}
        assert (await post(shop, {**PROMPT, "model": model["id"]})).status_code == 200


async def test_the_models_need_a_key_that_may_read(
    redis: Redis, redis_server: RedisServer, tmp_path: Path
) -> None:
    key = made(tmp_path / "keys.json", "reader", "read")
    async with open_door(redis, redis_server.url, decide=None, keys_file=tmp_path / "keys.json") as door:
        assert (await door.http.get("/v1/models", headers=key)).status_code == 200
        refused = await door.http.get("/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthorized")
        refused = await door.http.post("/v1/models", headers=key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
