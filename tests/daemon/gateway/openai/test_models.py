"""Clients of OpenAI that list the models first find the routes."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from redis.asyncio import Redis

from tests.daemon.gateway.callers.keys import made
from tests.daemon.gateway.openai.studio import PROMPT, post
from tests.daemon.gateway.rig import Door, open_door
from tests.servers import RedisServer


async def test_the_models_are_the_routes_and_their_models_in_openais_form(shop: Door) -> None:
    shop.gateway.routes["default"].model = "maker/model-2"
    answer = await shop.http.get("/v1/models")
    assert answer.status_code == 200
    body = answer.json()
    listed = [model["id"] for model in body["data"]]
    assert (body["object"], listed) == ("list", [*shop.gateway.routes, "maker/model-2"])
    for model in body["data"]:
        provider = shop.gateway.routes["default"].provider.name
        assert model == {"id": model["id"], "object": "model", "created": 0, "owned_by": provider}
        assert (await post(shop, {**PROMPT, "model": model["id"]})).status_code == 200
        for address in (model["id"], quote(model["id"], safe="")):
            assert (await shop.http.get(f"/v1/models/{address}")).json() == model
    missing = await shop.http.get("/v1/models/nobody")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


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
