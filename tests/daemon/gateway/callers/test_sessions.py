"""Sessions of browsers, and links that need no key."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import Request
from redis.asyncio import Redis
from starlette.datastructures import URL

from daemon.gateway.callers.access import Caller
from daemon.gateway.callers.keyring import SESSION_S, KeyRing, Seal, _signature
from daemon.gateway.callers.keys_file import add_key, read_keys, revoke_key
from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome
from pixmill.contract import Job
from tests.daemon.gateway.callers.keys import JOB, made
from tests.daemon.gateway.rig import Door, open_door
from tests.daemon.live import by_prompt, image_key, picture
from tests.servers import RedisServer


async def test_a_browser_trades_its_key_for_a_session(locked: Door, keys_file: Path) -> None:
    key = add_key(keys_file, "page", "shop", frozenset({"read"}))
    begun = await locked.http.post("/v1/session", json={"key": key})
    cookie = begun.headers["set-cookie"]
    assert begun.status_code == 204
    assert key not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    session = {"cookie": cookie.partition(";")[0]}
    assert (await locked.http.get("/v1/me", headers=session)).json()["name"] == "page"
    assert (await locked.http.get("/v1/me", headers={"cookie": session["cookie"] + "0"})).status_code == 401
    revoke_key(keys_file, "page")
    assert (await locked.http.get("/v1/me", headers=session)).status_code == 401


async def test_a_session_ends_after_its_time(redis: Redis, keys_file: Path) -> None:
    key, now_s = add_key(keys_file, "page", "shop", frozenset({"read"})), 1_000_000.0
    ring = KeyRing(keys_file, Seal(redis, "pixmill:seal"), clock=lambda: now_s)
    cookie = await ring.session_for(key)
    assert await ring._by_session(cookie) is not None
    now_s += SESSION_S
    assert await ring._by_session(cookie) is None


async def test_the_file_of_keys_alone_makes_no_session(redis: Redis, keys_file: Path) -> None:
    add_key(keys_file, "page", "shop", frozenset({"read"}))
    ring = KeyRing(keys_file, Seal(redis, "pixmill:seal"), clock=lambda: 1_000_000.0)
    (key,) = read_keys(keys_file)
    forged = _signature(key, b"", "1000060", "session")
    assert await ring._by_session(f"page~1000060~{forged}") is None


async def test_a_session_that_lasts_longer_than_any_is_refused(redis: Redis, keys_file: Path) -> None:
    add_key(keys_file, "page", "shop", frozenset({"read"}))
    (key,) = read_keys(keys_file)
    ring = KeyRing(keys_file, Seal(redis, "pixmill:seal"), clock=lambda: 1_000_000.0)
    assert await ring._by_session(await ring._signed(key, "session", SESSION_S)) is not None
    assert await ring._by_session(await ring._signed(key, "session", SESSION_S + 60)) is None


async def test_every_gateway_knows_a_session_also_after_redis_was_emptied(
    redis: Redis, keys_file: Path
) -> None:
    key, now_s = add_key(keys_file, "page", "shop", frozenset({"read"})), 0.0
    one, other = (KeyRing(keys_file, Seal(redis, "pixmill:seal", clock=lambda: now_s)) for _ in range(2))
    assert await other._by_session(await one.session_for(key)) is not None
    await redis.flushall()
    now_s = 11.0
    assert await other._by_session(await one.session_for(key)) is not None


@pytest.mark.parametrize("given", ["&tenant=other", "&tenant=shop", ""])
async def test_a_link_opens_the_picture_of_its_own_tenant_alone(
    locked: Door, keys_file: Path, given: str
) -> None:
    key = made(keys_file, "boss", "admin")
    for tenant in ("shop", "other"):
        await locked.http.post("/v1/jobs", json={**JOB, "tenant": tenant}, headers=key)
    caller = Caller("boss", "shop", frozenset({"admin"}))
    link = await locked.gateway.keyring.link_for(caller, f"{locked.url}/v1/jobs/k1")
    assert (await locked.http.get(link + given)).status_code == (401 if given else 200)
    foreign = await locked.gateway.keyring.link_for(caller, f"{locked.url}/v1/jobs/k1?tenant=other")
    assert (await locked.http.get(foreign)).json()["tenant"] == "other"
    assert (await locked.http.get(foreign.replace("tenant=other", "tenant=shop"))).status_code == 401


@pytest.mark.parametrize("host", ["x/v1/jobs/k1?", "x/v1/jobs/k1#", "127.0.0.1/v1/jobs/k1?"])
async def test_a_link_is_checked_by_the_path_whatever_the_host_header_says(
    locked: Door, keys_file: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    key, caller = made(keys_file, "boss", "admin"), Caller("boss", "shop", frozenset({"admin"}))
    for ident in ("k1", "k2"):
        await locked.http.post("/v1/jobs", json={**JOB, "id": ident, "tenant": "shop"}, headers=key)
    link = await locked.gateway.keyring.link_for(caller, f"{locked.url}/v1/jobs/k1")
    assert (await locked.http.get(link)).status_code == 200
    other = link.replace("/v1/jobs/k1", "/v1/jobs/k2")
    assert (await locked.http.get(other, headers={"host": host})).status_code == 401
    monkeypatch.setattr(Request, "url", URL(f"http://{host}/v1/jobs/k2"))  # as Starlette made it until 1.0.1
    assert (await locked.http.get(other)).status_code == 401


async def test_a_link_of_an_admin_gives_no_right_of_an_admin(locked: Door, keys_file: Path) -> None:
    key, caller = made(keys_file, "boss", "admin"), Caller("boss", "shop", frozenset({"admin"}))
    assert (await locked.http.get("/v1/dead", headers=key)).status_code == 200
    link = await locked.gateway.keyring.link_for(caller, f"{locked.url}/v1/dead")
    assert (await locked.http.get(link)).json()["code"] == "missing_scope"


async def test_an_address_of_a_picture_works_for_an_hour_without_a_key(
    redis: Redis, redis_server: RedisServer, keys_file: Path
) -> None:
    async def decide(item: Claimed, job: Job) -> Outcome | None:
        await doors[0].store.put_image(image_key(item), picture(item))
        return await by_prompt(item, job)

    doors: list[Door] = []
    key = made(keys_file, "client", "submit")
    async with open_door(redis, redis_server.url, decide=decide, keys_file=keys_file) as door:
        doors.append(door)
        body = {"prompt": "a kettle", "response_format": "url"}
        made_it = await door.http.post("/v1/images/generations", json=body, headers=key)
        url = made_it.json()["data"][0]["url"]
        assert (await door.http.get(url)).content.startswith(b"picture of")
        assert key["authorization"].partition(" ")[2] not in url
        assert (await door.http.get(url.replace("images/0", "images/1"))).status_code == 401
        assert (
            await door.http.delete(url.partition("/images/0")[0] + "?" + url.partition("?")[2])
        ).status_code == 401
        now_s = door.gateway.keyring._clock() + 3601
        door.gateway.keyring._clock = lambda: now_s
        assert (await door.http.get(url)).status_code == 401


async def test_a_wrong_key_begins_no_session(locked: Door) -> None:
    assert (await locked.http.post("/v1/session", json={"key": "pxm_wrong"})).status_code == 401
