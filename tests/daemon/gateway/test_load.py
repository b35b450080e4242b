"""Many requests at once share what they need of Redis, and take no threads."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from tests.daemon.gateway.rig import Door

AT_ONCE = 40


async def calls_of(door: Door, *commands: str) -> int:
    """How often Redis has run these commands, within scripts too."""
    stats: Any = await door.installation.redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in commands)


async def test_jobs_that_come_together_are_recorded_in_few_steps(quiet_door: Door) -> None:
    door = quiet_door
    await door.http.post("/v1/jobs", json={"id": "first", "prompt": "x"})  # the scripts are known from now on
    before = await calls_of(door, "evalsha")
    answers = await asyncio.gather(
        *(door.http.post("/v1/jobs", json={"id": f"job-{k}", "prompt": f"{k}"}) for k in range(AT_ONCE))
    )
    assert [answer.status_code for answer in answers] == [202] * AT_ONCE
    assert await calls_of(door, "evalsha") - before < AT_ONCE / 2
    positions = sorted(answer.json()["position"] for answer in answers)
    assert positions == list(range(1, AT_ONCE + 1)), "each has its own place"
    for k, answer in enumerate(answers):
        assert answer.json()["id"] == f"job-{k}"
        record = await door.installation.record(f"default//job-{k}")
        assert (record["state"], f'"prompt":"{k}"' in record["spec"]) == ("queued", True)


async def test_the_same_job_sent_many_times_at_once_is_one_job(quiet_door: Door) -> None:
    bodies = [{"id": "twin", "prompt": "x" if k < AT_ONCE - 1 else "other"} for k in range(AT_ONCE)]
    answers = await asyncio.gather(*(quiet_door.http.post("/v1/jobs", json=body) for body in bodies))
    refused = [answer.json()["code"] for answer in answers if answer.status_code == 409]
    taken = [answer for answer in answers if answer.status_code == 202]
    assert len(refused) + len(taken) == AT_ONCE
    assert set(refused) == {"id_conflict"}
    assert await quiet_door.installation.redis.zcard("pixmill:waiting:default") == 1


async def test_no_request_for_a_job_needs_a_thread(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/jobs", json={"id": "j", "prompt": "x"})
    assert (await quiet_door.http.get("/v1/jobs/j")).status_code == 200
    assert not [thread for thread in threading.enumerate() if "AnyIO" in thread.name]
