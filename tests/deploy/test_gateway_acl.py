"""A gateway works as the user of the workers: nothing that it sends to Redis is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2

from daemon.gateway.running import alone
from daemon.settings import Settings
from tests.daemon.gateway.compat.decks import DECK
from tests.daemon.harness import eventually
from tests.deploy.test_redis_acl import _as, _pairs, admin, pytestmark, server
from tests.servers import RedisServer
from tests.topologies.rig import FIELDS, PATIENCE_S, Installed, installed

__all__ = ["admin", "pytestmark", "server"]  # fixtures

READS = """
    /v1/jobs/j1 /v1/jobs/j1/explain /v1/jobs/j1/images/0 /v1/jobs/j1/images/0?thumb=1
    /v1/batches /v1/batches/b1 /v1/batches/b1/items /v1/batches/b1/items/i1 /v1/batches/b1/items/i1/explain
    /v1/batches/b1/log /v1/batches/b1/archive.zip /v1/quotas /v1/routes /v1/dead /v1/usage?days=7 /v1/status /v1/me
    /api/slide/batch/active-count /v1/batches?state=running
"""
ORDERS = """
    /v1/batches/b2/pause /v1/batches/b2/resume /v1/quotas/sync/pause /v1/quotas/sync/resume /v1/routes/tasks/pause
    /v1/routes/tasks/resume /v1/pause /v1/resume /v1/batches/b2/cancel /v1/batches/b2/retry
"""


async def test_a_gateway_may_do_all_that_it_serves_as_the_workers_user(
    server: RedisServer, admin: Any, tmp_path: Path
) -> None:
    await admin.execute_command("ACL", "LOG", "RESET")
    url = _as("worker", server)
    async with installed(url, tmp_path, quota={"in_flight": 4}) as made:
        await made.ready()
        async with (
            alone(_settings(made), url, environ={}) as address,
            httpx2.AsyncClient(base_url=address, timeout=PATIENCE_S) as http,
        ):
            await _work(http)
            await _reads_and_orders(http)
    refused: Any = await admin.execute_command("ACL", "LOG")
    assert [(entry[b"object"], entry[b"username"]) for entry in map(_pairs, refused)] == []


def _settings(made: Installed) -> Settings:
    gateway = {"listen": "127.0.0.1:0", "slide_route": "default", "studio_route": "default"}
    return made._settings.model_copy(
        update={"gateway": Settings.model_validate({"gateway": gateway}).gateway}
    )


async def _work(http: httpx2.AsyncClient) -> None:
    job = {"id": "j1", "prompt": "a kettle"}
    done = await http.post("/v1/jobs", json=job, headers={"Prefer": "wait=30"})
    assert done.json()["state"] == "succeeded", done.text
    for name, later in (("b1", {}), ("b2", {"not_before": "2100-01-01T00:00:00Z"})):
        items = [{"id": f"i{k}", "prompt": f"item {k}", **FIELDS, **later} for k in range(3)]
        assert (await http.post("/v1/batches", json={"id": name, "items": items})).status_code == 202
    assert (await http.post("/api/slide/batch/generate", json=DECK)).json()["successful"] == 2
    picture = {"prompt": "a pot", "n": 1, "model": "default"}
    assert (await http.post("/v1/images/generations", json=picture)).status_code == 200

    async def ended() -> bool:
        return bool((await http.get("/v1/batches/b1")).json()["progress"] == 1)

    await eventually(ended, PATIENCE_S)
    async with http.stream("GET", "/v1/batches/b1/events", params={"after": "0-0"}) as events:
        async for line in events.aiter_lines():
            if line == "event: end":
                break


async def _reads_and_orders(http: httpx2.AsyncClient) -> None:
    answers = [await http.get(path) for path in READS.split()]
    answers += [await http.post(path, json={}) for path in ORDERS.split()]
    answers.append(await http.delete("/v1/jobs/j1"))
    answers.append(await http.delete("/v1/batches/b1"))
    wrong = [
        (answer.request.method, answer.request.url.path, answer.text)
        for answer in answers
        if answer.status_code >= 400
    ]
    assert wrong == []
