"""Orders on batches over HTTP: an order concerns what it names, and never all by accident."""

from __future__ import annotations

from typing import Any

import pytest

from tests.daemon.gateway.rig import Door, refusal
from tests.daemon.gateway.test_batch_lists import MIXED
from tests.daemon.gateway.test_batches import batch, ended
from tests.daemon.live import refused


async def counts(door: Door) -> dict[str, int]:
    found: dict[str, int] = (await door.http.get("/v1/batches/b1")).json()["counts"]
    return {state: count for state, count in found.items() if count}


async def order(door: Door, name: str, body: Any) -> tuple[int, Any]:
    answer = await door.http.post(f"/v1/batches/b1/{name}", json=body)
    return answer.status_code, answer.json().get("affected", answer.json().get("code"))


async def test_a_cancel_without_lists_concerns_all_that_has_not_ended(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 700))
    assert await order(quiet_door, "cancel", {}) == (202, 700)
    assert (await quiet_door.http.get("/v1/batches/b1")).json()["state"] == "cancelled"
    assert await order(quiet_door, "cancel", {}) == (202, 0)


async def test_a_cancel_of_some_items_leaves_the_others(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 5))
    assert await order(quiet_door, "cancel", {"items": ["i1", "i3", "i3", "unknown"]}) == (202, 2)
    assert await counts(quiet_door) == {"total": 5, "queued": 3, "cancelled": 2}
    assert await order(quiet_door, "cancel", {"states": ["running"]}) == (202, 0)


async def test_a_retry_by_kind_leaves_other_failures_and_successes(door: Door) -> None:
    await door.http.post("/v1/batches", json=MIXED)
    await ended(door, "b1")
    assert await order(door, "retry", {"kinds": ["timeout"]}) == (202, 0)
    assert await order(door, "retry", {"kinds": ["moderation_input"], "items": ["bad-1", "good-1"]}) == (
        202,
        1,
    )
    await ended(door, "b1")
    assert await order(door, "retry", {}) == (202, 2)


@pytest.mark.parametrize("body", [{}, {"kinds": ["moderation_input"]}], ids=["all", "by kind"])
async def test_a_batch_retry_that_is_sent_again_leaves_what_has_run_since(
    quiet_door: Door, body: dict[str, Any]
) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 3))
    installation = quiet_door.installation

    async def fail(count: int) -> None:
        for item in await installation.claim(count):
            await installation.queue.settle(item, refused())

    async def retry(key: str) -> int:
        headers = {"Idempotency-Key": key}
        answer = await quiet_door.http.post("/v1/batches/b1/retry", json=body, headers=headers)
        return int(answer.json()["affected"])

    await fail(2)
    assert await retry("order-1") == 2
    await fail(3)
    assert await retry("order-1") == 0
    assert await counts(quiet_door) == {"total": 3, "failed": 3}
    assert await retry("order-2") == 3


async def test_a_key_of_a_retry_belongs_to_its_selection(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 2))
    headers = {"Idempotency-Key": "order-1"}
    for body, status in (({"items": ["i0"]}, 202), ({"items": ["i1"]}, 409), ({"items": ["i0"]}, 202)):
        answer = await quiet_door.http.post("/v1/batches/b1/retry", json=body, headers=headers)
        assert answer.status_code == status
        if status == 409:
            assert refusal(answer) == (409, "id_conflict", "Idempotency-Key")


@pytest.mark.parametrize("name", ["cancel", "retry", "pause", "resume"])
async def test_an_order_is_read_before_its_batch_is_looked_up(quiet_door: Door, name: str) -> None:
    answer = await quiet_door.http.post(f"/v1/batches/unknown/{name}", json={"x": 1})
    assert refusal(answer) == (422, "unknown_field", "x")


async def test_a_paused_batch_begins_nothing_until_it_is_resumed(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 3))
    assert await order(quiet_door, "pause", {"reason": "wrong prompt"}) == (202, 3)
    assert (await quiet_door.http.get("/v1/batches/b1")).json()["paused"] == "wrong prompt"
    assert await quiet_door.installation.claim(3) == []
    assert await order(quiet_door, "resume", {}) == (202, 3)
    assert await order(quiet_door, "resume", {}) == (202, 0)
    assert len(await quiet_door.installation.claim(3)) == 3


async def test_a_pause_of_an_ended_batch_is_refused(door: Door) -> None:
    await door.http.post("/v1/batches", json=batch("b1", 1))
    await ended(door, "b1")
    assert await order(door, "pause", {}) == (409, "already_ended")


@pytest.mark.parametrize(
    ("name", "body", "code", "field"),
    [
        ("cancel", {"states": []}, "invalid", "states"),
        ("cancel", {"items": []}, "invalid", "items"),
        ("retry", {"kinds": []}, "invalid", "kinds"),
        ("retry", {"states": ["succeeded"]}, "invalid", "states.0"),
        ("cancel", {"states": ["failed"]}, "invalid", "states.0"),
        ("cancel", {"state": ["queued"]}, "unknown_field", "state"),
        ("cancel", {"items": ["../x"]}, "invalid", "items.0"),
        ("pause", {"states": ["queued"]}, "unknown_field", "states"),
        ("pause", {"reason": 3}, "invalid", "reason"),
        ("resume", {"reason": "x"}, "unknown_field", "reason"),
    ],
)
async def test_a_wrong_order_changes_nothing(
    quiet_door: Door, name: str, body: dict[str, Any], code: str, field: str
) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 2))
    answer = await quiet_door.http.post(f"/v1/batches/b1/{name}", json=body)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, code, field)
    assert await counts(quiet_door) == {"total": 2, "queued": 2}


async def test_an_order_without_a_json_body_is_refused(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 1))
    for content, kind, status in ((b"", "text/plain", 415), (b"[]", "application/json", 400)):
        answer = await quiet_door.http.post(
            "/v1/batches/b1/cancel", content=content, headers={"Content-Type": kind}
        )
        assert answer.status_code == status
    assert await counts(quiet_door) == {"total": 1, "queued": 1}
