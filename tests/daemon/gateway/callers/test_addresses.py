"""Every address of the app: who may send to it, what may be kept of it, and what it gives away about others."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute

from daemon.gateway.app import ROUTERS
from tests.daemon.gateway.callers.keys import made
from tests.daemon.gateway.rig import Door

FILLED = {"name": "default", "k": "0"}
FORGET = ("DELETE", "/v1/session")
# A session begins with a key in the body, and is forgotten without one.
OPEN = {("POST", "/v1/session"), FORGET}
ADMIN = {
    ("POST", "/v1/quotas/{name}/pause"),
    ("POST", "/v1/quotas/{name}/resume"),
    ("POST", "/v1/pause"),
    ("POST", "/v1/resume"),
    ("POST", "/v1/routes/{name}/pause"),
    ("POST", "/v1/routes/{name}/resume"),
    ("GET", "/v1/dead"),
    ("POST", "/v1/dead/{ident}/retry"),
}
SUBMIT = {
    ("POST", "/v1/jobs"),
    ("POST", "/v1/batches"),
    ("POST", "/v1/inputs"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/images/edits"),
    ("POST", "/v1/images/generations/async"),
    ("POST", "/v1/images/edits/async"),
    ("POST", "/api/slide/batch/generate"),
    ("POST", "/api/image-studio/jobs"),
}
ROUTES = [
    (method, route.path)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in sorted(route.methods or ())
]
OF_WORK = [
    (method, path)
    for method, path in ROUTES
    if re.match(r"/v1/(jobs|batches|images/tasks)/\{", path) and (method, path) not in ADMIN
]


def filled(path: str, **names: str) -> str:
    """An address with a name for each of its parameters."""
    return re.sub(r"\{(\w+)\}", lambda found: {**FILLED, **names}.get(found[1], "k1"), path)


async def send(door: Door, method: str, address: str, headers: dict[str, str]) -> httpx2.Response:
    return await door.http.request(method, address, headers=headers, json={} if method == "POST" else None)


def code_of(answer: httpx2.Response) -> Any:
    """The code of a refusal, also in OpenAI's form."""
    body = answer.json()
    return body["error"]["code"] if "error" in body else body["code"]


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route not in OPEN])
async def test_an_address_without_a_key_is_refused(locked: Door, method: str, path: str) -> None:
    answer = await send(locked, method, filled(path), {})
    assert (answer.status_code, code_of(answer)) == (401, "unauthorized")
    assert answer.headers["cache-control"] == "no-store"


async def test_what_is_open_gives_nothing_away(locked: Door) -> None:
    answers = [await send(locked, method, path, {}) for method, path in sorted(OPEN)]
    assert [answer.status_code for answer in answers] == [204, 422]


@pytest.mark.parametrize(("method", "path"), sorted(ADMIN))
async def test_an_address_of_administrators_refuses_who_may_submit(
    locked: Door, keys_file: Any, method: str, path: str
) -> None:
    answer = await send(locked, method, filled(path), made(keys_file, "mine", "submit"))
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
        403,
        "missing_scope",
        "admin",
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        route
        for route in ROUTES
        if route not in ADMIN | OPEN and route[0] != "GET" and not route[1].endswith("/status")
    ],
)
async def test_what_changes_something_refuses_who_may_read(
    locked: Door, keys_file: Any, method: str, path: str
) -> None:
    answer = await send(locked, method, filled(path), made(keys_file, "mine", "read"))
    assert (answer.status_code, code_of(answer)) == (403, "missing_scope")


def test_every_address_that_changes_something_is_known_here() -> None:
    writes = {
        route for route in ROUTES if route[0] != "GET" and "{" not in route[1] and "/status" not in route[1]
    }
    assert writes == SUBMIT | OPEN | {route for route in ADMIN if "{" not in route[1] and route[0] != "GET"}


@pytest.mark.parametrize(
    "address",
    [
        "/v1/jobs/k1",
        "/v1/jobs/k1/explain",
        "/v1/batches",
        "/v1/batches/b1",
        "/v1/batches/b1/items",
        "/v1/batches/b1/log",
        "/v1/quotas",
        "/v1/routes",
        "/v1/dead",
        "/v1/usage",
        "/v1/status",
        "/v1/me",
        "/api/slide/batch/active-count",
    ],
)
async def test_no_state_is_kept_on_the_way(quiet_door: Door, address: str) -> None:
    await quiet_door.http.post("/v1/jobs", json={"id": "k1", "prompt": "x"})
    await quiet_door.http.post("/v1/batches", json={"id": "b1", "items": [{"id": "a", "prompt": "x"}]})
    answer = await quiet_door.http.get(address)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("method", "path"), OF_WORK)
async def test_work_of_another_tenant_is_answered_as_work_that_never_was(
    locked: Door, keys_file: Any, method: str, path: str
) -> None:
    own, other = made(keys_file, "mine", "submit"), made(keys_file, "other", "submit", tenant="other")
    item = {"id": "k1", "prompt": "x"}
    assert (await locked.http.post("/v1/jobs", json=item, headers=own)).status_code == 202
    assert (
        await locked.http.post("/v1/batches", json={"id": "k1", "items": [item]}, headers=own)
    ).status_code == 202

    async def answered(ident: str) -> tuple[Any, ...]:
        names = {"ident": ident, "batch": ident}
        answer = await send(locked, method, filled(path, **names), other)
        own_headers = {"x-request-id", "date"}
        headers = {name: value for name, value in answer.headers.items() if name not in own_headers}
        return answer.status_code, headers, answer.content

    foreign, unknown = await answered("k1"), await answered("k2")
    assert foreign == unknown == await answered("a" * 129)
    assert foreign[0] == 404


async def test_usage_with_a_key_is_of_its_tenant_alone(locked: Door, keys_file: Any) -> None:
    mine, other = made(keys_file, "mine", "submit"), made(keys_file, "other", "submit", tenant="other")
    for key in (mine, other):
        wanted = {"id": "k1", "prompt": "x"}
        await locked.http.post("/v1/jobs?wait=5", json=wanted, headers={**key, "prefer": "wait=10"})
    rows = (await locked.http.get("/v1/usage", headers=other)).json()["usage"]
    assert {row["tenant"] for row in rows} == {"other"}
    refused = await locked.http.get("/v1/usage?tenant=shop", headers=other)
    assert (refused.status_code, refused.json()["code"]) == (403, "wrong_tenant")
