"""Pictures in an S3: a caller gets a signed address there, or the bytes from the gateway where it wants them inline."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from PIL import Image
from redis.asyncio import Redis

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome
from pixmill.contract import Job
from tests.daemon.gateway.rig import Door, open_door
from tests.daemon.gateway.test_pictures import png
from tests.daemon.live import image_key, made
from tests.object_stores import S3, Front
from tests.servers import RedisServer

PICTURE = "/v1/jobs/k1/images/0"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    server = S3()
    yield server
    server.close()


@pytest.fixture
async def shop(
    s3: S3, redis: Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Door]:
    """A gateway whose store is a bucket; job k1 has its picture there."""

    async def decide(item: Claimed, _: Job) -> Outcome | None:
        await doors[0].store.put_image(image_key(item), png())
        return made(item)

    doors: list[Door] = []
    s3.reset()
    s3.bucket("pictures")
    async with Front(s3.port) as front:
        for name, value in front.environ.items():
            monkeypatch.setenv(name, value)
        async with open_door(redis, redis_server.url, decide=decide, store_url="s3://pictures/shop") as door:
            doors.append(door)
            await door.http.post("/v1/jobs", json={"id": "k1", "prompt": "x"}, headers={"prefer": "wait=10"})
            yield door


async def test_a_picture_in_a_bucket_is_a_signed_address_for_an_hour(shop: Door) -> None:
    answer = await shop.http.get(PICTURE)
    assert answer.status_code == 302
    address = answer.headers["location"]
    assert parse_qs(urlsplit(address).query)["X-Amz-Expires"] == ["3600"]
    assert answer.headers["cache-control"] == "no-store"  # the address ends, so nobody may keep it
    assert "planted-aws-secret" not in address
    async with httpx2.AsyncClient() as stranger:
        assert (await stranger.get(address)).content == png()


async def test_a_picture_in_a_bucket_comes_from_the_gateway_where_it_is_wanted_inline(shop: Door) -> None:
    answer = await shop.http.get(f"{PICTURE}?inline=1")
    assert (answer.status_code, answer.content) == (200, png())
    assert answer.headers["content-type"] == "image/png"


async def test_a_thumbnail_comes_from_the_gateway_also_where_a_bucket_has_it(shop: Door) -> None:
    for _ in range(2):  # the second time it is in the bucket
        answer = await shop.http.get(f"{PICTURE}?thumb=1")
        assert answer.status_code == 200
        with Image.open(io.BytesIO(answer.content)) as small:
            assert small.format == "WEBP"
