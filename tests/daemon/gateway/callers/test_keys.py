"""Keys, tenants and scopes: who may do what."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from daemon.gateway.callers.keyring import COOKIE
from daemon.gateway.callers.keys_file import revoke_key
from daemon.gateway.callers.scopes import Scope
from tests.daemon.gateway.callers.keys import JOB, made
from tests.daemon.gateway.rig import Door
from tests.daemon.gateway.test_faults import written_then_read


def spoil(path: Path) -> None:
    path.write_text("{")


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


async def test_a_large_upload_without_a_key_gets_its_refusal(locked: Door) -> None:
    send = partial(written_then_read, locked, "/v1/inputs", "image/png", 8 * 1024**2)
    assert await asyncio.to_thread(send) == (401, "unauthorized")


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
