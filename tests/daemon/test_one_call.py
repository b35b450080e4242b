"""Slides over openrouter and studio pictures over openai: a whole replica from the stream to the store and the bill."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from daemon.accounts.routes import build_routes
from daemon.replica import Replica
from daemon.settings import Settings
from daemon.storage.object_store import ResultStore
from providers.http.asgi import AsgiServer
from providers.simulator import Simulator, SimulatorSettings
from providers.simulator.drawing import Drawing, draw
from providers.simulator.faults import Fault, FaultKind
from tests.daemon.harness import NO_WEBHOOKS, Installation, eventually
from tests.servers import RedisServer

KEY = "sk-or-v1-planted-secret-0123456789abcdef"
PHOTOS = {
    name: draw(Drawing(name, number, 64, 48, format="jpeg"))
    for number, name in enumerate(("front_1", "side_2"))
}


class House:
    """A replica whose providers are the simulator, and a shop that serves its photos."""

    def __init__(self, redis: Redis, replica: Replica, simulator: Simulator, shop: str) -> None:
        self.redis: Any = redis
        self.replica = replica
        self.simulator = simulator
        self.shop = shop
        self.installation = Installation(redis)

    async def records(self, *uids: str) -> list[dict[str, str]]:
        async def ended() -> list[dict[str, str]] | None:
            found = [await self.installation.record(uid) for uid in uids]
            over = all(record.get("state") in {"succeeded", "failed"} for record in found)
            return found if over else None

        found: list[dict[str, str]] = await eventually(ended, 20)
        return found

    def cost(self, provider: str) -> float | None:
        labels = {"provider": provider, "currency": "USD"}
        return self.replica.metrics.registry.get_sample_value("pixmill_cost_total", labels)


async def photo(request: Request) -> Response:
    return Response(PHOTOS[request.path_params["name"]], media_type="image/jpeg")


@pytest.fixture
async def house(redis: Redis, redis_server: RedisServer) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(
            Simulator(SimulatorSettings(latency_s=(0.0, 0.0), plain=True))
        )
        shop = AsgiServer(Starlette(routes=[Route("/{name}.jpg", photo)]))
        await shop.start()
        stack.push_async_callback(shop.stop)
        settings = Settings.model_validate(
            {
                "metrics": {"listen": "127.0.0.1:0"},
                "network": {"allow_hosts": [shop.url.partition("://")[2]]},
                "credentials": {
                    "openrouter-main": {
                        "provider": "openrouter",
                        "wire": "chat",
                        "base_url": simulator.openrouter_url,
                        "api_key_env": "KEY",
                    },
                    "openai-main": {
                        "provider": "openai",
                        "base_url": simulator.base_url,
                        "api_key_env": "KEY",
                    },
                },
                "quotas": {"all": {"in_flight": 4}},
                "routes": {
                    "slides": {
                        "credential": "openrouter-main",
                        "model": "google/gemini-3.1-flash-image",
                        "quotas": ["all"],
                    },
                    "studio": {"credential": "openai-main", "model": "gpt-image-2", "quotas": ["all"]},
                },
            }
        )
        routes = build_routes(settings, {"KEY": KEY})
        for route in routes.values():
            stack.push_async_callback(route.provider.aclose)
        replica = Replica(settings, redis_server.url, routes, ResultStore.open("memory://"), NO_WEBHOOKS)
        await replica.start()
        stack.push_async_callback(replica.stop)
        yield House(redis, replica, simulator, shop.url)


def result(record: dict[str, str]) -> dict[str, Any]:
    document = orjson.loads(record["result"])
    assert isinstance(document, dict)
    return document


async def test_a_deck_is_16_to_9_and_each_slide_has_its_cost(house: House) -> None:
    assert house.cost("openrouter") == 0
    deck = {
        "id": "deck",
        "defaults": {"route": "slides", "size": "16:9"},
        "items": [{"id": f"s{number}", "prompt": f"slide {number}"} for number in range(1, 4)],
    }
    await house.installation.add(deck, type="pixmill.batch.v1")
    records = await house.records(*(f"default/deck/s{number}" for number in range(1, 4)))
    for record in records:
        (image,) = result(record)["images"]
        assert (image["width"], image["height"]) == (1344, 768)
        assert result(record)["cost"] == {"amount": "0.0387", "currency": "USD"}
    assert house.simulator.ledger.costs() == {"USD": 3 * Decimal("0.0387")}
    assert house.cost("openrouter") == pytest.approx(3 * 0.0387)


async def test_words_instead_of_a_slide_are_paid_and_the_slide_is_tried_again(
    house: House,
) -> None:
    house.simulator.faults.add(Fault(FaultKind.EMPTY))
    await house.installation.add({"id": "s1", "route": "slides", "prompt": "slide 1", "size": "16:9"})
    (record,) = await house.records("default//s1")
    assert record["state"] == "succeeded"
    assert result(record)["cost"] == {"amount": "0.0387", "currency": "USD"}
    assert house.simulator.ledger.calls_by_prompt() == {"slide 1": 2}
    assert house.cost("openrouter") == pytest.approx(0.0387 + 0.00036)


async def test_studio_pictures_are_edits_of_exactly_the_shops_photos(house: House) -> None:
    studio = {
        "job_id": "studio-1",
        "user_id": "shop-7",
        "mode": "batch_series_generate",
        "options": {
            "skus": ["SKU1"],
            "sku_images_map": {
                "SKU1": [
                    {"url": f"{house.shop}/{name}.jpg", "name": f"{name}.jpg", "stem": name}
                    for name in PHOTOS
                ]
            },
            "settings": {"imageSize": "1024x1024", "imageFormat": "png"},
            "prompt_templates": {"main_cn": "主图", "secondary_cn": "副图"},
        },
    }
    await house.installation.add(studio, type="image-studio.batch.v1")
    records = await house.records(*(f"shop-7/studio-1/SKU1.{name}" for name in PHOTOS))
    assert [record["state"] for record in records] == ["succeeded"] * 2
    sent = {
        call.prompt: [(file.name, file.content_type, file.sha256) for file in call.files]
        for call in house.simulator.ledger.calls
    }
    assert sent == {
        prompt: [("image[]", "image/jpeg", hashlib.sha256(PHOTOS[name]).hexdigest())]
        for prompt, name in (("主图", "front_1"), ("副图", "side_2"))
    }
    assert {call.fields["size"] for call in house.simulator.ledger.calls} == {"1024x1024"}
    costs = {Decimal(result(record)["cost"]["amount"]) for record in records}
    assert costs == {Decimal(10 * 5 + 323 * 8 + 272 * 30) / 1_000_000}
    assert house.cost("openai") == pytest.approx(2 * 0.010794)


async def test_no_key_stays_anywhere_in_redis(house: House) -> None:
    for name, prompt in (("ok", "a slide"), ("bad", "a forbidden slide")):
        await house.installation.add({"id": name, "route": "slides", "prompt": prompt})
    await house.records("default//ok", "default//bad")
    seen = ""
    for key in await house.redis.keys("*"):
        read = {
            b"hash": house.redis.hgetall,
            b"stream": house.redis.xrange,
            b"string": house.redis.get,
            b"set": house.redis.smembers,
            b"list": lambda name: house.redis.lrange(name, 0, -1),
            b"zset": lambda name: house.redis.zrange(name, 0, -1),
        }[await house.redis.type(key)]
        seen += f"{key} {await read(key)}"
    assert "a slide" in seen
    assert KEY not in seen
