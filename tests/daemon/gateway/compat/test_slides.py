"""The endpoints of the slide maker, as their callers know them."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.gateway.callers.keys_file import add_key
from daemon.gateway.compat import slides as door_of_slides
from tests.daemon.gateway.compat.decks import ANSWER, DECK, RESULT, Room, deck, with_slide
from tests.daemon.gateway.rig import Door, open_door
from tests.daemon.harness import eventually
from tests.servers import RedisServer


async def test_a_deck_is_answered_when_every_slide_is_done(door: Door, room: Room) -> None:
    answer = await deck(door)
    body = answer.json()
    assert answer.status_code == 200
    assert body.keys() == ANSWER | {"total_time"}
    assert (body["total_slides"], body["successful"], body["failed"]) == (2, 2, 0)
    first = body["results"][0]
    assert first.keys() == RESULT
    assert (first["slide_id"], first["page_num"], first["title"]) == ("s1", 1, "Kettles")
    assert (first["status"], first["error_message"]) == ("success", None)
    assert first["final_prompt"].startswith("flat")
    assert first["image_url"].endswith(f"/v1/batches/{body['batch_id']}/items/s1/images/0")
    assert isinstance(body["total_time"], float)
    assert isinstance(first["generation_time"], float)
    assert {(job.route, job.size) for job in room.jobs} == {("slides", "16:9")}


async def test_a_failed_slide_has_its_reason_and_its_time(door: Door) -> None:
    body = (await deck(door, with_slide(visual_desc="bad"))).json()
    assert (body["successful"], body["failed"], body["status"]) == (2, 1, "completed_with_errors")
    failed = body["results"][2]
    assert (failed["status"], failed["image_url"]) == ("failed", None)
    assert failed["error_message"] == "The provider refuses this prompt."
    assert isinstance(failed["generation_time"], float)


async def test_a_deck_that_takes_too_long_is_answered_with_what_is_done(
    door: Door, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_of_slides, "WAIT_S", 0.3)
    answer = await deck(door, with_slide(visual_desc="later"))
    body = answer.json()
    assert (answer.status_code, body["status"]) == (202, "running")
    assert body.keys() == ANSWER | {"total_time", "estimated_remaining_time"}
    assert all(result.keys() == RESULT for result in body["results"])
    assert body["results"][2] | {"status": "pending", "final_prompt": ""} == {
        "slide_id": "s3",
        "page_num": 3,
        "title": "x",
        "image_url": None,
        "final_prompt": "",
        "status": "pending",
        "error_message": None,
        "generation_time": None,
    }
    assert body["results"][2]["status"] in ("pending", "processing")
    assert (body["failed"], body["total_slides"]) == (0, 3)
    assert body["completed_slides"] == body["successful"]
    assert answer.headers["location"].endswith(body["batch_id"])
    assert (await door.http.get("/api/slide/batch/active-count")).json() == {"active_batches": 1}
    room.go_on.set()

    async def done() -> Any:
        status = await door.http.post("/api/slide/batch/status", json={"batch_id": body["batch_id"]})
        return status.json()["status"] == "completed" and status.json()

    status = await eventually(done)
    assert status.keys() == ANSWER | {"progress", "estimated_remaining_time"}
    assert [result["status"] for result in status["results"]] == ["success"] * 3
    assert (status["progress"], status["completed_slides"], status["estimated_remaining_time"]) == (
        1.0,
        3,
        0.0,
    )
    assert (await door.http.get("/api/slide/batch/active-count")).json() == {"active_batches": 0}


@pytest.mark.parametrize("preference", ["respond-async", "wait=0"])
async def test_a_caller_that_polls_is_answered_at_once(door: Door, room: Room, preference: str) -> None:
    answer = await deck(door, with_slide(visual_desc="later"), prefer=preference)
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    room.go_on.set()


async def test_the_same_deck_again_is_the_same_batch_while_it_runs_and_a_minute_longer(
    door: Door, redis: Redis, room: Room
) -> None:
    body = with_slide(visual_desc="later")
    first, second = [(await deck(door, body, prefer="respond-async")).json()["batch_id"] for _ in range(2)]
    room.go_on.set()
    third = (await deck(door, body)).json()["batch_id"]
    assert first == second == third
    finished_us = int(await redis.hget(f"pixmill:batch:default/{first}", "finished_us") or 0)
    await redis.hset(f"pixmill:batch:default/{first}", "finished_us", str(finished_us - 61_000_000))
    assert (await deck(door, body)).json()["batch_id"] != first


async def test_an_idempotency_key_names_the_batch(door: Door) -> None:
    ids = {(await deck(door, DECK, **{"idempotency-key": "deck-1"})).json()["batch_id"] for _ in range(2)}
    assert len(ids) == 1
    assert ids.pop().startswith("i-")


async def test_another_deck_under_the_same_key_is_refused(door: Door) -> None:
    key = {"idempotency-key": "deck-1"}
    first = (await deck(door, DECK, **key)).json()["batch_id"]
    other = await deck(door, {**DECK, "style_prompt": "round"}, **key)
    assert (other.status_code, other.json()["code"]) == (409, "id_conflict")
    kept = await door.http.post("/api/slide/batch/status", json={"batch_id": first})
    assert kept.json()["results"][0]["final_prompt"].startswith("flat")


@pytest.mark.parametrize("preference", ["wait=281", "wait=-1", "wait=abc"])
async def test_a_wait_that_cannot_be_is_refused_and_nothing_is_stored(
    door: Door, redis: Redis, preference: str
) -> None:
    answer = await deck(door, prefer=preference)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
        400,
        "bad_parameter",
        "Prefer",
    )
    assert await redis.keys("pixmill:item:*") == []


async def test_with_a_key_a_deck_is_its_tenants_alone(
    redis: Redis, redis_server: RedisServer, tmp_path: Any, room: Room
) -> None:
    keys = tmp_path / "keys.json"
    own, other = (
        {"authorization": f"Bearer {add_key(keys, name, name, frozenset({'submit'}))}"}
        for name in ("shop", "press")
    )
    async with open_door(
        redis, redis_server.url, decide=room.decide, routes=("slides",), keys_file=keys
    ) as door:
        assert (await deck(door)).status_code == 401
        body = (await deck(door, with_slide(visual_desc="later"), prefer="respond-async", **own)).json()
        assert await door.gateway.records.group(f"shop/{body['batch_id']}") is not None
        for key, count, status in ((own, 1, 200), (other, 0, 404)):
            active = await door.http.get("/api/slide/batch/active-count", headers=key)
            assert active.json() == {"active_batches": count}
            wanted = {"batch_id": body["batch_id"]}
            shown = await door.http.post("/api/slide/batch/status", json=wanted, headers=key)
            assert shown.status_code == status
        room.go_on.set()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_workers": 0}, "max_workers"),
        ({"max_workers": 11}, "max_workers"),
        ({"max_workers": "3"}, "max_workers"),
        ({"slides": []}, "slides"),
        ({"slides": "x"}, "slides"),
        ({"slides": [{"id": "a"}]}, "slides.0"),
        ({"slides": [{"title": "x"}]}, "slides.0.id"),
        ({"slides": [{"id": "a", "title": "x"}, {"id": "a", "title": "y"}]}, "items.1.id"),
        ({"aspect_ratio": "wide"}, "defaults.size"),
        ({"aspect_ratio": {}}, "defaults.size"),
        ({"style_prompt": 3}, "style_prompt"),
    ],
)
async def test_a_wrong_deck_names_its_field_and_nothing_is_stored(
    door: Door, redis: Redis, change: dict[str, Any], field: str
) -> None:
    answer = await deck(door, {**DECK, **change})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert await redis.keys("pixmill:item:*") == []


@pytest.mark.parametrize("body", [{}, {"batch_id": 3}])
async def test_a_status_needs_a_batch(door: Door, body: dict[str, Any]) -> None:
    assert (await door.http.post("/api/slide/batch/status", json=body)).status_code == 422


async def test_the_status_of_an_unknown_batch_is_not_found(door: Door) -> None:
    answer = await door.http.post("/api/slide/batch/status", json={"batch_id": "../x"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
