"""The budget of uploads: a tenant with keys leaves half of it to others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from daemon.gateway.answering.problems import Problem
from daemon.gateway.requests.uploads import Uploads
from tests.daemon.gateway.callers.keys import made
from tests.daemon.gateway.rig import open_door, refusal
from tests.daemon.gateway.test_pictures import png
from tests.servers import RedisServer


def takes(uploads: Uploads, size: int, tenant: str | None) -> bool:
    try:
        with uploads.hold(size, tenant):
            return True
    except Problem:
        return False


@pytest.mark.parametrize(("size", "is_taken"), [(30, True), (31, False)])
def test_a_tenant_takes_half_of_the_budget_with_several_uploads(size: int, is_taken: bool) -> None:
    uploads = Uploads(100)
    with uploads.hold(20, "shop"):
        assert takes(uploads, size, "shop") is is_taken
        assert takes(uploads, 80, "other")


def test_one_upload_may_be_larger_than_half_of_the_budget() -> None:
    uploads = Uploads(100)
    with uploads.hold(80, "shop"):
        assert not takes(uploads, 1, "shop")
        assert takes(uploads, 20, "other")
    assert takes(uploads, 100, "shop")


def test_callers_without_keys_share_all_of_the_budget() -> None:
    uploads = Uploads(100)
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(uploads.hold(25, None))
        assert not takes(uploads, 1, None)
    assert takes(uploads, 100, None)


def test_an_upload_without_a_length_has_what_has_come() -> None:
    uploads = Uploads(100)
    with uploads.hold(0, "shop") as take:
        take(10)
        assert takes(uploads, 40, "shop")
        assert not takes(uploads, 41, "shop")
        take(80)  # one upload may be larger than the share
        assert not takes(uploads, 1, "shop")
        assert takes(uploads, 10, "other")
        with pytest.raises(Problem, match="Other uploads"):
            take(11)
    assert takes(uploads, 100, "shop")


@pytest.mark.parametrize("path", ["/v1/inputs", "/v1/images/edits"])
async def test_a_sender_without_a_length_leaves_half_to_others(
    redis: Redis, redis_server: RedisServer, tmp_path: Path, path: str
) -> None:
    file = tmp_path / "keys.json"
    key = made(file, "shop", "submit", tenant="shop")
    kind = "image/png" if path == "/v1/inputs" else "multipart/form-data; boundary=b"

    async def body() -> AsyncIterator[bytes]:
        yield bytes(1000)

    async with open_door(redis, redis_server.url, decide=None, keys_file=file) as door:
        door.gateway.uploads = uploads = Uploads(10_000)
        for held, is_taken in ((2500, True), (4500, False)):
            with uploads.hold(held, "shop"):
                headers = {**key, "content-type": kind}
                answer = await door.http.post(path, content=body(), headers=headers)
                assert (answer.status_code != 503) is is_taken


async def test_an_upload_counts_for_the_tenant_of_its_key(
    redis: Redis, redis_server: RedisServer, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    keys = {tenant: made(file, tenant, "submit", tenant=tenant) for tenant in ("shop", "other")}
    async with open_door(redis, redis_server.url, decide=None, keys_file=file) as door:
        door.gateway.uploads = uploads = Uploads(10_000)
        with uploads.hold(5000, "shop"):
            for tenant, kind in (("shop", "image/png"), ("shop", "text/csv")):
                path = "/v1/batches" if kind == "text/csv" else "/v1/inputs"
                headers = {**keys[tenant], "content-type": kind}
                answer = await door.http.post(path, content=png(), headers=headers)
                assert refusal(answer) == (503, "busy", None)
            headers = {**keys["other"], "content-type": "image/png"}
            assert (await door.http.post("/v1/inputs", content=png(), headers=headers)).status_code == 201
