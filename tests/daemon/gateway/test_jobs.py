"""Jobs over HTTP: 202 means recorded, a repeat is the same job, and a refusal stores nothing."""

from __future__ import annotations

from tests.daemon.gateway.rig import Door
from tests.daemon.harness import eventually


async def test_a_job_is_accepted_made_and_shown(door: Door) -> None:
    accepted = await door.http.post("/v1/jobs", json={"id": "k1", "prompt": "a kettle"})
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"{door.url}/v1/jobs/k1"

    async def made() -> bool:
        return bool((await door.http.get("/v1/jobs/k1")).json()["state"] == "succeeded")

    await eventually(made)


async def test_a_job_is_accepted_while_no_worker_is_up(quiet_door: Door) -> None:
    assert (await quiet_door.http.post("/v1/jobs", json={"prompt": "a kettle"})).json()["state"] == "queued"


async def test_the_same_id_with_other_content_is_a_conflict(quiet_door: Door) -> None:
    first = {"id": "k1", "prompt": "a kettle"}
    assert [(await quiet_door.http.post("/v1/jobs", json=first)).status_code for _ in range(2)] == [202, 202]
    other = await quiet_door.http.post("/v1/jobs", json={**first, "prompt": "a pot"})
    assert (other.status_code, other.json()["code"]) == (409, "id_conflict")
