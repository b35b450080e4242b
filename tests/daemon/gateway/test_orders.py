"""Orders about one job or one item, and why it waits: what happens, what is refused, and what the provider takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon.accounts.why import Hints, Reasons
from daemon.queue import pauses
from daemon.queue.outcomes import Failed, Outcome
from tests.daemon.gateway.rig import Door, refusal
from tests.daemon.harness import eventually
from tests.daemon.live import held, refused

JOB, ITEM = "/v1/jobs/k1", "/v1/batches/b1/items/i0"
BOTH = pytest.mark.parametrize("path", [JOB, ITEM])


async def submitted(door: Door, prompt: str = "a kettle", **fields: Any) -> None:
    """A job and a batch of one item, with the same fields."""
    await door.http.post("/v1/jobs", json={"id": "k1", "prompt": prompt, **fields})
    item = {"id": "i0", "prompt": prompt, **fields}
    await door.installation.submit({"id": "b1", "items": [item]}, type="pixmill.batch.v1")


async def until(door: Door, path: str, *states: str) -> None:
    async def check() -> bool:
        return (await door.http.get(path)).json()["state"] in states

    await eventually(check)


async def told(door: Door, path: str) -> tuple[int, Any]:
    answer = await door.http.post(path)
    return answer.status_code, answer.json()


@BOTH
async def test_what_waits_is_cancelled_and_costs_nothing(quiet_door: Door, path: str) -> None:
    await submitted(quiet_door)
    assert await told(quiet_door, f"{path}/cancel") == (202, {"state": "cancelled", "charged": "no"})


@BOTH
async def test_what_runs_is_requested_to_stop_and_may_cost(quiet_door: Door, path: str) -> None:
    await submitted(quiet_door)
    await quiet_door.installation.claim(2)
    assert await told(quiet_door, f"{path}/cancel") == (202, {"state": "running", "charged": "maybe"})
    explained = (await quiet_door.http.get(f"{path}/explain")).json()["why"]
    assert "A cancel was requested." in explained


@BOTH
async def test_what_has_ended_is_not_cancelled(door: Door, path: str) -> None:
    await submitted(door)
    await until(door, path, "succeeded")
    assert refusal(await door.http.post(f"{path}/cancel")) == (409, "already_ended", None)


@BOTH
async def test_what_has_failed_is_queued_again(door: Door, path: str) -> None:
    await submitted(door, "bad")
    await until(door, path, "failed")
    status, said = await told(door, f"{path}/retry")
    assert (status, said["state"] in ("queued", "running", "failed")) == (202, True)


@BOTH
async def test_what_is_held_is_sent_again_or_ended(door: Door, path: str) -> None:
    await submitted(door, "odd")
    await until(door, path, "held")
    explained = (await door.http.get(f"{path}/explain")).json()["why"]
    assert f"`POST {door.url}{path}/retry` sends it again and may pay twice" in explained
    assert (await told(door, f"{path}/retry"))[0] == 202
    await until(door, path, "held")
    assert await told(door, f"{path}/cancel") == (202, {"state": "cancelled", "charged": "no"})


@BOTH
async def test_what_is_under_way_is_not_retried(quiet_door: Door, path: str) -> None:
    await submitted(quiet_door)
    assert refusal(await quiet_door.http.post(f"{path}/retry")) == (409, "not_ended", None)


@BOTH
async def test_what_has_its_picture_is_not_bought_again(door: Door, path: str) -> None:
    await submitted(door)
    await until(door, path, "succeeded")
    assert refusal(await door.http.post(f"{path}/retry")) == (409, "already_succeeded", None)


async def run_to(door: Door, how: Outcome) -> None:
    """Let the one item that waits run and end."""
    (item,) = await door.installation.claim(1)
    await door.installation.queue.settle(item, how)


@pytest.mark.parametrize("how", [refused(), held()], ids=["failed", "held"])
@pytest.mark.parametrize("key", ["order-1", None])
async def test_a_retry_that_is_sent_again_with_its_key_acts_once(
    quiet_door: Door, how: Outcome, key: str | None
) -> None:
    await quiet_door.http.post("/v1/jobs", json={"id": "k1", "prompt": "a kettle"})
    headers = {"idempotency-key": key} if key else {}
    await run_to(quiet_door, how)
    assert (await quiet_door.http.post(f"{JOB}/retry", headers=headers)).json()["state"] == "queued"
    again = await quiet_door.http.post(f"{JOB}/retry", headers=headers)
    assert (again.status_code, again.json()["state"]) == (202 if key else 409, "queued")
    await run_to(quiet_door, how)
    again = await quiet_door.http.post(f"{JOB}/retry", headers=headers)
    left = "failed" if isinstance(how, Failed) else "held"
    assert (again.status_code, again.json()["state"]) == (202, left if key else "queued")
    other = {"idempotency-key": "order-2"}
    assert (await quiet_door.http.post(f"{JOB}/retry", headers=other)).status_code == (202 if key else 409)


async def test_a_retry_whose_work_is_running_is_answered_as_its_first_send(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/jobs", json={"id": "k1", "prompt": "x", "n": 2})
    await run_to(quiet_door, refused())
    await run_to(quiet_door, refused())
    headers = {"idempotency-key": "order-1"}
    first = await quiet_door.http.post(f"{JOB}/retry", headers=headers)
    await run_to(quiet_door, refused())
    await quiet_door.installation.claim(1)
    again = await quiet_door.http.post(f"{JOB}/retry", headers=headers)
    assert (again.status_code, again.json()["state"]) == (first.status_code, first.json()["state"])
    assert (await quiet_door.http.get(JOB)).json()["counts"]["failed"] == 1


async def test_a_retry_of_a_success_is_refused_each_time(door: Door) -> None:
    await submitted(door)
    await until(door, JOB, "succeeded")
    for _ in range(2):
        answer = await door.http.post(f"{JOB}/retry", headers={"idempotency-key": "order-1"})
        assert refusal(answer) == (409, "already_succeeded", None)


async def test_a_retry_that_broke_off_is_carried_out_by_its_repetition(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    await quiet_door.http.post("/v1/jobs", json={"id": "k1", "prompt": "a kettle"})
    await run_to(quiet_door, refused())

    async def away(*_: object, **__: object) -> None:
        raise RedisConnectionError

    headers = {"idempotency-key": "order-1"}
    with monkeypatch.context() as broken:
        broken.setattr(quiet_door.gateway.orders, "retry", away)
        assert (await quiet_door.http.post(f"{JOB}/retry", headers=headers)).status_code == 503
    assert (await quiet_door.http.post(f"{JOB}/retry", headers=headers)).json()["state"] == "queued"


async def test_a_retry_that_was_refused_is_no_order_that_its_key_repeats(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/jobs", json={"id": "k1", "prompt": "a kettle"})
    headers = {"idempotency-key": "order-1"}
    assert refusal(await quiet_door.http.post(f"{JOB}/retry", headers=headers)) == (409, "not_ended", None)
    await run_to(quiet_door, refused())
    assert (await quiet_door.http.post(f"{JOB}/retry", headers=headers)).json()["state"] == "queued"


async def test_a_job_of_several_pictures_takes_orders_as_one(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/jobs", json={"id": "k1", "prompt": "x", "n": 3})
    assert await told(quiet_door, f"{JOB}/cancel") == (202, {"state": "cancelled", "charged": "no"})
    assert refusal(await quiet_door.http.post(f"{JOB}/cancel")) == (409, "already_ended", None)
    assert await told(quiet_door, f"{JOB}/retry") == (202, {"state": "running", "charged": "no"})
    assert refusal(await quiet_door.http.post(f"{JOB}/retry")) == (409, "not_ended", None)


async def test_a_job_with_a_failed_picture_is_not_retried_while_another_runs(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/jobs", json={"id": "k1", "prompt": "x", "n": 2})
    (item,) = await quiet_door.installation.claim(1)
    await quiet_door.installation.queue.settle(item, refused())
    assert refusal(await quiet_door.http.post(f"{JOB}/retry")) == (409, "not_ended", None)
    record = (await quiet_door.http.get(JOB)).json()
    assert (record["counts"]["failed"], record["error"]["kind"]) == (1, "moderation_input")


@pytest.mark.parametrize("path", ["/v1/jobs/k9", "/v1/jobs/b1", "/v1/batches/b1/items/i9", "/v1/jobs/a%00b"])
@pytest.mark.parametrize("order", ["cancel", "retry"])
async def test_orders_for_unknown_work_are_not_found(quiet_door: Door, path: str, order: str) -> None:
    await submitted(quiet_door)
    assert refusal(await quiet_door.http.post(f"{path}/{order}")) == (404, "not_found", None)


@pytest.mark.parametrize("path", [JOB, ITEM, "/v1/batches/b1"])
async def test_a_pause_is_the_first_reason(quiet_door: Door, redis: Redis, path: str) -> None:
    await submitted(quiet_door)
    await pauses.pause(redis, quiet_door.gateway.keys, "fleet", reason="stocktaking")
    said = (await quiet_door.http.get(f"{path}/explain")).json()
    assert said["why"].startswith("The whole fleet is paused (stocktaking), until it is resumed.")
    assert (said["id"], said["state"], said["paused"]["scope"]) == (
        path.rpartition("/")[2],
        "running" if path.endswith("b1") else "queued",
        "fleet",
    )


async def test_http_and_the_command_line_explain_alike(quiet_door: Door) -> None:
    later = (datetime.now(UTC) + timedelta(hours=30)).isoformat()
    await submitted(quiet_door, not_before=later)
    gateway = quiet_door.gateway
    view = await gateway.records.find("default", "k1")
    assert view is not None
    reasons = Reasons(gateway.redis, gateway.records, gateway.limiter, gateway.settings)
    why = await reasons.why(view, Hints("", ""))
    said = (await quiet_door.http.get(f"{JOB}/explain")).json()
    assert (said["why"].partition(" (in ")[0], said["until"]) == (
        why.text.partition(" (in ")[0],
        why.facts["until"],
    )
