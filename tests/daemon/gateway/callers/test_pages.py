"""Requests that a foreign page makes a browser send, and our own page behind a proxy."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from daemon.gateway.callers.access import Caller
from daemon.gateway.callers.keys_file import add_key
from tests.daemon.gateway.callers.keys import JOB, made
from tests.daemon.gateway.rig import Door, open_door
from tests.servers import RedisServer


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:80", 421),
        ("127.0.0.2", 421),
    ],
)
async def test_without_keys_only_the_names_of_this_machine_are_served(
    quiet_door: Door, host: str, status: int
) -> None:
    assert (await quiet_door.http.get("/v1/me", headers={"host": host})).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
    ],
)
async def test_a_page_of_another_site_changes_nothing(
    quiet_door: Door, redis: Redis, headers: dict[str, str]
) -> None:
    answer = await quiet_door.http.post("/v1/jobs", json=JOB, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
    assert await redis.keys("*item*") == []
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:1"},  # a proxy has changed the Host
        {"sec-fetch-site": "none"},
        {"origin": "https://pictures.example"},
        {"origin": "http://evil.example", "authorization": "Bearer x"},  # no page can send this unasked
    ],
)
async def test_our_own_page_may_write_also_behind_a_proxy(
    redis: Redis, redis_server: RedisServer, headers: dict[str, str]
) -> None:
    public = "https://pictures.example/pixmill"
    async with open_door(redis, redis_server.url, decide=None, public_url=public) as door:
        answer = await door.http.post("/v1/jobs", json=JOB, headers=headers)
        assert answer.status_code == 202
        assert answer.json()["urls"]["self"] == answer.headers["location"] == f"{public}/v1/jobs/k1"


async def test_a_page_on_our_host_may_write(quiet_door: Door) -> None:
    own = {"origin": quiet_door.url}
    assert (await quiet_door.http.post("/v1/jobs", json=JOB, headers=own)).status_code == 202


async def test_a_session_behind_a_proxy_is_secure_and_for_the_path_of_callers(
    redis: Redis, redis_server: RedisServer, keys_file: Path
) -> None:
    key = add_key(keys_file, "page", "shop", frozenset({"read"}))
    public = "https://pictures.example/pixmill"
    async with open_door(
        redis, redis_server.url, decide=None, keys_file=keys_file, public_url=public
    ) as door:
        cookie = (await door.http.post("/v1/session", json={"key": key})).headers["set-cookie"]
    assert {"Secure", "Path=/pixmill"} <= set(cookie.split("; "))


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("cross-site", "no-cors", 403),
        ("cross-site", "cors", 403),
        ("cross-site", "navigate", 200),
        ("same-origin", "cors", 200),
    ],
)
async def test_without_keys_a_page_of_another_site_loads_nothing(
    quiet_door: Door, site: str, mode: str, status: int
) -> None:
    answer = await quiet_door.http.get("/v1/me", headers={"sec-fetch-site": site, "sec-fetch-mode": mode})
    assert answer.status_code == status
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


async def test_only_a_link_that_needs_no_key_may_be_embedded_by_other_sites(
    locked: Door, keys_file: Path
) -> None:
    key, caller = made(keys_file, "boss", "admin"), Caller("boss", "shop", frozenset({"admin"}))
    assert (await locked.http.post("/v1/jobs", json=JOB, headers=key)).status_code == 202
    link = await locked.gateway.keyring.link_for(caller, f"{locked.url}/v1/jobs/k1")
    embedded = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    answer = await locked.http.get(link, headers=embedded)
    assert (answer.status_code, answer.headers["cross-origin-resource-policy"]) == (200, "cross-origin")
    own = await locked.http.get("/v1/jobs/k1", headers=key)
    assert own.headers["cross-origin-resource-policy"] == "same-origin"
