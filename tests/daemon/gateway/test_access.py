"""Who may do what: keys, tenants, scopes, sessions, and requests that a foreign page makes a browser send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis

from daemon.contract import Job
from daemon.gateway.keyring import COOKIE, SESSION_S, KeyRing
from daemon.gateway.keys_file import FORM, add_key, digest, read_keys, revoke_key
from daemon.gateway.scopes import Scope
from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome
from daemon.settings import Settings, SettingsError
from tests.daemon.gateway.rig import Door, open_door
from tests.daemon.live import by_prompt, image_key, picture
from tests.servers import RedisServer

JOB = {"id": "k1", "prompt": "a kettle"}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def made(path: Path, name: str, *scopes: Scope, tenant: str = "shop") -> dict[str, str]:
    """The header of a new key."""
    return {"authorization": f"Bearer {add_key(path, name, tenant, frozenset(scopes))}"}


def spoil(path: Path) -> None:
    path.write_text("{")


@pytest.fixture
async def locked(redis: Redis, redis_server: RedisServer, keys_file: Path) -> AsyncIterator[Door]:
    """A gateway with keys."""
    made(keys_file, "first", "read")
    async with open_door(redis, redis_server.url, keys_file=keys_file) as door:
        yield door


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer pxm_wrong"},
        {"authorization": "Basic eA=="},
        {"cookie": f"{COOKIE}=first~9~x"},
    ],
)
async def test_without_a_valid_key_nothing_is_served(locked: Door, headers: dict[str, str]) -> None:
    answer = await locked.http.post("/v1/jobs", json=JOB, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("scope", "wanted", "status"),
    [("read", "submit", 403), ("submit", "submit", 202), ("admin", "submit", 202), ("submit", "read", 200)],
)
async def test_a_scope_allows_what_it_names_and_less(
    locked: Door, keys_file: Path, scope: Scope, wanted: str, status: int
) -> None:
    key = made(keys_file, "mine", scope)
    if wanted == "submit":
        answer = await locked.http.post("/v1/jobs", json=JOB, headers=key)
    else:
        answer = await locked.http.get("/v1/me", headers=key)
    assert answer.status_code == status
    if status == 403:
        assert (answer.json()["code"], answer.json()["field"]) == ("missing_scope", "submit")


async def test_a_job_belongs_to_the_tenant_of_its_key(locked: Door, keys_file: Path) -> None:
    key, other = made(keys_file, "mine", "submit"), made(keys_file, "other", "submit", tenant="other")
    job = (await locked.http.post("/v1/jobs", json=JOB, headers=key)).json()
    assert (await locked.http.get(job["urls"]["self"], headers=key)).json()["tenant"] == "shop"
    assert (await locked.http.get("/v1/jobs/k1", headers=other)).status_code == 404
    foreign = await locked.http.post("/v1/jobs", json={**JOB, "tenant": "other"}, headers=key)
    assert (foreign.status_code, foreign.json()["code"]) == (403, "wrong_tenant")


async def test_only_an_admin_may_name_another_tenant(locked: Door, keys_file: Path) -> None:
    admin, reader = made(keys_file, "boss", "admin"), made(keys_file, "clerk", "read")
    body = {**JOB, "tenant": "other"}
    job = (await locked.http.post("/v1/jobs", json=body, headers=admin)).json()
    assert job["urls"]["self"] == f"{locked.url}/v1/jobs/k1?tenant=other"
    assert (await locked.http.get(job["urls"]["self"], headers=admin)).json()["tenant"] == "other"
    assert (await locked.http.get("/v1/jobs/k1?tenant=other", headers=reader)).status_code == 403


async def test_a_key_is_given_out_and_revoked_without_a_restart(locked: Door, keys_file: Path) -> None:
    key = made(keys_file, "late", "read")
    assert (await locked.http.get("/v1/me", headers=key)).json() == {
        "name": "late",
        "tenant": "shop",
        "scopes": ["read"],
    }
    revoke_key(keys_file, "late")
    assert (await locked.http.get("/v1/me", headers=key)).status_code == 401


async def test_a_file_that_is_spoilt_leaves_the_known_keys_in_force(locked: Door, keys_file: Path) -> None:
    key = made(keys_file, "mine", "read")
    assert (await locked.http.get("/v1/me", headers=key)).status_code == 200
    spoil(keys_file)
    assert (await locked.http.get("/v1/me", headers=key)).status_code == 200


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


def test_a_session_ends_after_its_time(keys_file: Path) -> None:
    key, now_s = add_key(keys_file, "page", "shop", frozenset({"read"})), 1_000_000.0
    ring = KeyRing(keys_file, clock=lambda: now_s)
    cookie = ring.session_for(key)
    assert ring._by_session(cookie) is not None
    now_s += SESSION_S
    assert ring._by_session(cookie) is None


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
        now_s = door.gateway.keys._clock() + 3601
        door.gateway.keys._clock = lambda: now_s
        assert (await door.http.get(url)).status_code == 401


async def test_a_wrong_key_begins_no_session(locked: Door) -> None:
    assert (await locked.http.post("/v1/session", json={"key": "pxm_wrong"})).status_code == 401


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


async def test_our_own_page_may_write(quiet_door: Door) -> None:
    own = {"sec-fetch-site": "same-origin", "origin": quiet_door.url}
    assert (await quiet_door.http.post("/v1/jobs", json=JOB, headers=own)).status_code == 202


def test_the_file_holds_hashes_and_is_for_its_owner_alone(keys_file: Path) -> None:
    key = add_key(keys_file, "mine", "shop", frozenset({"read"}))
    assert FORM.fullmatch(key)
    assert key not in keys_file.read_text()
    assert digest(key) in keys_file.read_text()
    assert keys_file.stat().st_mode & 0o777 == 0o600


async def test_keys_made_at_once_are_all_kept(keys_file: Path) -> None:
    names = [f"k{number}" for number in range(20)]
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(asyncio.to_thread(add_key, keys_file, name, "shop", frozenset[Scope]({"read"})))
    assert sorted(key.name for key in read_keys(keys_file)) == sorted(names)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"keys": [{"name": "a"}]}', json.dumps({"keys": [], "key": "pxm_planted"})]
)
def test_a_spoilt_file_is_named_without_its_content(keys_file: Path, content: str) -> None:
    keys_file.write_text(content)
    with pytest.raises(SettingsError, match="keys_file") as caught:
        KeyRing(keys_file)
    assert "pxm_planted" not in str(caught.value)


def test_a_missing_file_names_the_command_that_makes_it(keys_file: Path) -> None:
    with pytest.raises(SettingsError, match="pixmill key new"):
        KeyRing(keys_file)


@pytest.mark.parametrize(("name", "tenant"), [("a b", "shop"), ("", "shop"), ("a", "no/slash")])
def test_a_key_needs_a_name_and_a_tenant_of_the_contract(keys_file: Path, name: str, tenant: str) -> None:
    with pytest.raises(SettingsError):
        add_key(keys_file, name, tenant, frozenset({"read"}))
    assert not keys_file.exists()


def test_other_machines_are_served_with_keys_only() -> None:
    problems = [
        text for _, text in Settings.model_validate({"gateway": {"listen": "0.0.0.0:1"}}).contradictions()
    ]
    assert any("gateway.keys_file" in text for text in problems)


async def test_keys_never_reach_answers_or_logs(
    locked: Door, keys_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = "pxm_planted-0000000000000000000000000000000000"
    answers: list[httpx2.Response] = [
        await locked.http.get("/v1/me", headers={"authorization": f"Bearer {planted}"}),
        await locked.http.post("/v1/session", json={"key": planted}),
        await locked.http.get("/v1/me", headers={"cookie": f"{COOKIE}={planted}"}),
    ]
    shown: list[Any] = [*(answer.text + str(answer.headers) for answer in answers), *capsys.readouterr()]
    assert not any(planted in text for text in shown)
