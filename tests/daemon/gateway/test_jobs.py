"""Jobs over HTTP: 202 means recorded, a repeat is the same job, and a refusal stores nothing."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.daemon.gateway.rig import Door, open_door, refusal
from tests.daemon.harness import eventually
from tests.servers import RedisServer, free_port

JOB = {"id": "k1", "prompt": "a kettle"}


async def stored(redis: Redis) -> set[str]:
    """The keys of work; the gateway itself writes none."""
    return set(map(str, await redis.keys("pixmill*")))


async def ended(door: Door, path: str) -> dict[str, Any]:
    """The record at an address once its work has ended."""

    async def look() -> dict[str, Any] | None:
        record: dict[str, Any] = (await door.http.get(path)).json()
        return record if record["finished_at"] else None

    record: dict[str, Any] = await eventually(look)
    return record


# Acceptance


async def test_a_job_is_accepted_made_and_shown(door: Door) -> None:
    accepted = await door.http.post("/v1/jobs", json=JOB)
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"{door.url}/v1/jobs/k1"
    record = await ended(door, "/v1/jobs/k1")
    assert (record["state"], record["attempts"], record["error"]) == ("succeeded", 1, None)
    (image,) = record["images"]
    assert image["url"] == f"{door.url}/v1/jobs/k1/images/0"
    assert (record["position"], record["eta_seconds"], record["bound"]) == (None, 0.0, None)


async def test_a_job_is_accepted_while_no_worker_is_up(quiet_door: Door) -> None:
    answer = await quiet_door.http.post("/v1/jobs", json=JOB)
    job = f"{quiet_door.url}/v1/jobs/k1"
    assert answer.json() == {
        "id": "k1",
        "state": "queued",
        "position": 0,
        "eta_seconds": None,
        "bound": None,
        "urls": {
            "self": job,
            **{name: f"{job}/{name}" for name in ("events", "cancel", "retry", "explain")},
            "images": [f"{job}/images/0"],
        },
    }
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_job_without_an_id_gets_one(quiet_door: Door) -> None:
    first, second = [(await quiet_door.http.post("/v1/jobs", json={"prompt": "x"})).json() for _ in "ab"]
    assert first["id"] != second["id"]
    assert (await quiet_door.http.get(first["urls"]["self"])).json()["id"] == first["id"]


async def test_the_same_id_with_other_content_is_a_conflict(quiet_door: Door) -> None:
    assert [(await quiet_door.http.post("/v1/jobs", json=JOB)).status_code for _ in range(2)] == [202, 202]
    other = await quiet_door.http.post("/v1/jobs", json={**JOB, "prompt": "a pot"})
    assert refusal(other) == (409, "id_conflict", "id")


async def test_an_idempotency_key_names_one_job(quiet_door: Door) -> None:
    key = {"Idempotency-Key": "order 7"}
    first, again = [
        (await quiet_door.http.post("/v1/jobs", json={"prompt": "x"}, headers=key)).json() for _ in "ab"
    ]
    assert first["id"] == again["id"] == "i-" + hashlib.sha256(b"order 7").hexdigest()[:26]
    other = await quiet_door.http.post("/v1/jobs", json={"prompt": "y"}, headers=key)
    assert refusal(other) == (409, "id_conflict", "id")


async def test_a_repeat_of_a_job_that_has_ended_shows_its_end(door: Door) -> None:
    await door.http.post("/v1/jobs", json=JOB)
    await ended(door, "/v1/jobs/k1")
    again = await door.http.post("/v1/jobs", json=JOB)
    assert (again.status_code, again.json()["state"]) == (202, "succeeded")


async def test_a_job_of_several_pictures_shows_them_all(door: Door) -> None:
    accepted = (await door.http.post("/v1/jobs", json={**JOB, "n": 3})).json()
    assert accepted["urls"]["images"] == [f"{door.url}/v1/jobs/k1/images/{k}" for k in range(3)]
    record = await ended(door, "/v1/jobs/k1")
    assert (record["state"], record["attempts"], record["error"]) == ("completed", 1, None)
    assert [image["url"] for image in record["images"]] == accepted["urls"]["images"]
    assert (await door.http.get("/v1/jobs/k1.1")).json()["images"] == [record["images"][1]]


async def test_an_accepted_job_is_answered_even_if_nothing_is_known(quiet_door: Door, redis: Redis) -> None:
    await redis.lpush("pixmill:paused", "of another type")
    answer = await quiet_door.http.post("/v1/jobs", json=JOB)
    assert (answer.status_code, answer.json()["position"]) == (202, None)
    assert (await quiet_door.http.get("/v1/jobs/k1")).json()["state"] == "queued"


# Refusals


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"{", (400, "malformed", None)),
        (b"[]", (400, "malformed", None)),
        (b'{"prompt": "x", "params": ' + b"[" * 32 + b"]" * 32 + b"}", (400, "malformed", None)),
        (b'{"prompt": "x", "params": ' + b"[" * 600 + b"]" * 600 + b"}", (400, "malformed", None)),
        (b"[" * 2000 + b"]" * 2000, (400, "malformed", None)),
        (b'{"prompt": ""}', (422, "invalid", "prompt")),
        (b'{"prompt": "x", "tenant": 5}', (422, "invalid", "tenant")),
        (b'{"prompt": "x", "id": "../x"}', (422, "invalid", "id")),
        (b'{"prompt": "x", "promt": "y"}', (422, "unknown_field", "promt")),
        (b'{"prompt": "x", "api_key": "y"}', (422, "secret_in_payload", "api_key")),
        (b'{"prompt": "x", "route": "nowhere"}', (422, "unknown_route", "route")),
        (
            b'{"prompt": "x", "callback": {"url": "https://10.0.0.1/x"}}',
            (422, "forbidden_address", "callback.url"),
        ),
        (
            b'{"prompt": "x", "callback": {"url": "http://example.com/x"}}',
            (422, "forbidden_address", "callback.url"),
        ),
        (
            b'{"prompt": "x", "inputs": [{"url": "https://127.0.0.1/x"}]}',
            (422, "forbidden_address", "inputs.0.url"),
        ),
        (b'{"prompt": "' + b"x" * 262_144 + b'"}', (413, "too_large", None)),
    ],
)
async def test_a_bad_body_stores_nothing(
    quiet_door: Door, redis: Redis, body: bytes, wanted: tuple[int, str, str | None]
) -> None:
    answer = await quiet_door.http.post(
        "/v1/jobs", content=body, headers={"content-type": "application/json"}
    )
    assert refusal(answer) == wanted
    assert not await stored(redis)


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({"Prefer": "wait=abc"}, (400, "bad_parameter", "Prefer")),
        ({"Prefer": "wait=61"}, (400, "bad_parameter", "Prefer")),
        ({"Prefer": "wait=-1"}, (400, "bad_parameter", "Prefer")),
        ({"Idempotency-Key": ""}, (400, "bad_parameter", "Idempotency-Key")),
        ({"Idempotency-Key": "k" * 256}, (400, "bad_parameter", "Idempotency-Key")),
        ({"Idempotency-Key": "k"}, (422, "invalid", "id")),
        ({"content-type": "text/plain"}, (415, "unsupported_media_type", None)),
    ],
)
async def test_a_bad_header_stores_nothing(
    quiet_door: Door, redis: Redis, headers: dict[str, str], wanted: tuple[int, str, str | None]
) -> None:
    answer = await quiet_door.http.post("/v1/jobs", json=JOB, headers=headers)
    assert refusal(answer) == wanted
    assert not await stored(redis)


async def test_the_place_of_what_is_too_deep_is_shown(quiet_door: Door) -> None:
    body = b'{\n"prompt": "\xc3\xa4 [[\\"[[",\n"x_1": "\xc3\xa4", "x_2": ' + b"[" * 32 + b"]" * 32 + b"}"
    answer = await quiet_door.http.post(
        "/v1/jobs", content=body, headers={"content-type": "application/json"}
    )
    place = body.decode().splitlines()[2].index("[") + 32
    assert (answer.json()["line"], answer.json()["column"]) == (3, place)


async def test_a_full_backlog_shows_its_depth_and_when_to_come_back(
    redis: Redis, redis_server: RedisServer
) -> None:
    async with open_door(redis, redis_server.url, decide=None, cap=2) as door:
        assert (await door.http.post("/v1/jobs", json={**JOB, "n": 2})).status_code == 202
        before = await stored(redis)
        answer = await door.http.post("/v1/jobs", json={"prompt": "x"})
        assert refusal(answer) == (429, "backlog_full", None)
        assert (answer.json()["depth"], answer.json()["cap"]) == (2, 2)
        assert int(answer.headers["retry-after"]) == answer.json()["retry_after"] >= 1
        assert await stored(redis) == before


async def test_while_redis_is_away_nothing_is_accepted_or_shown(redis: Redis) -> None:
    async with open_door(redis, f"redis://127.0.0.1:{free_port()}/0", decide=None) as door:
        for answer in (
            await door.http.post("/v1/jobs", json=JOB, headers={"Prefer": "wait=60"}),
            await door.http.get("/v1/jobs/k1?wait=60"),
            await door.http.post("/v1/jobs/k1/cancel"),
            await door.http.get("/v1/batches/b1/items/i0/explain"),
        ):
            assert refusal(answer) == (503, "redis_unavailable", None)
            assert int(answer.headers["retry-after"]) >= 1
    assert not await stored(redis)


# Reading


@pytest.mark.parametrize(
    "path", ["/v1/jobs/nobodys", "/v1/jobs/b1", "/v1/jobs/..%2fx", "/v1/jobs/a%00b", f"/v1/jobs/{'x' * 129}"]
)
@pytest.mark.parametrize("order", ["", "/explain"])
async def test_unknown_and_odd_ids_are_one_404(quiet_door: Door, path: str, order: str) -> None:
    await quiet_door.installation.batch("b1", 1)
    answer = await quiet_door.http.get(path + order)
    assert refusal(answer) == (404, "not_found", None)
    assert answer.json() == (await quiet_door.http.get("/v1/nowhere")).json()


async def test_a_foreign_job_is_not_found(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/jobs", json={**JOB, "tenant": "other"})
    assert refusal(await quiet_door.http.get("/v1/jobs/k1")) == (404, "not_found", None)
    assert (await quiet_door.http.get("/v1/jobs/k1?tenant=other")).status_code == 200


async def test_an_expired_record_is_gone_since_a_day_that_is_named(door: Door, redis: Redis) -> None:
    await door.http.post("/v1/jobs", json=JOB)
    day = (await ended(door, "/v1/jobs/k1"))["accepted_at"][:10]
    await redis.delete("pixmill:item:default//k1")
    answer = await door.http.get("/v1/jobs/k1")
    assert refusal(answer) == (410, "expired", None)
    assert answer.json()["accepted_on"] == day


async def test_an_item_of_a_batch_has_a_record_of_its_own(quiet_door: Door) -> None:
    await quiet_door.installation.batch("b1", 2)
    record = (await quiet_door.http.get("/v1/batches/b1/items/i1")).json()
    item = f"{quiet_door.url}/v1/batches/b1/items/i1"
    assert (record["id"], record["batch"], record["state"], record["position"]) == ("i1", "b1", "queued", 1)
    assert (record["urls"]["self"], record["urls"]["images"]) == (item, [f"{item}/images/0"])
    for path in ("/v1/batches/b1/items/i9", "/v1/batches/b9/items/i1", "/v1/batches/b1/items/..%2f"):
        assert refusal(await quiet_door.http.get(path)) == (404, "not_found", None)


async def test_a_record_has_the_whole_prompt_and_what_else_was_requested(quiet_door: Door) -> None:
    requested = {"prompt": "a kettle " * 500, "seed": 7, "size": "1024x1024", "params": {"style": "flat"}}
    await quiet_door.http.post("/v1/jobs", json={"id": "k1", **requested})
    await quiet_door.installation.take_all()
    record = (await quiet_door.http.get("/v1/jobs/k1")).json()
    assert {name: record[name] for name in requested} == requested
    assert (record["negative_prompt"], record["max_attempts"]) == (None, 5)


async def test_an_item_of_an_expired_batch_has_expired(quiet_door: Door, redis: Redis) -> None:
    await quiet_door.installation.batch("b1", 1)
    await redis.delete("pixmill:item:default/b1/i0", "pixmill:batch:default/b1")
    assert refusal(await quiet_door.http.get("/v1/batches/b1/items/i0"))[:2] == (410, "expired")


@pytest.mark.parametrize("n", [1, 3])
async def test_a_job_whose_pictures_names_are_taken_is_a_conflict(quiet_door: Door, n: int) -> None:
    first = await quiet_door.http.post("/v1/jobs", json={"id": "a.1", "prompt": "x", "n": n})
    before = await quiet_door.installation.redis.keys("pixmill:*a*")
    second = await quiet_door.http.post("/v1/jobs", json={"id": "a", "prompt": "x", "n": 2})
    assert (first.status_code, refusal(second)) == (202, (409, "id_conflict", "id"))
    assert sorted(await quiet_door.installation.redis.keys("pixmill:*a*")) == sorted(before)
    again = await quiet_door.http.post("/v1/jobs", json={"id": "a.1", "prompt": "x", "n": n})
    assert again.status_code == 202


@pytest.mark.parametrize("n", [1, 3])
async def test_a_name_is_taken_before_its_picture_is_on_record(quiet_door: Door, n: int) -> None:
    await quiet_door.http.post("/v1/jobs", json={"id": "a", "prompt": "x", "n": 2})
    await quiet_door.installation.redis.delete("pixmill:item:default//a.1")
    taken = await quiet_door.http.post("/v1/jobs", json={"id": "a.1", "prompt": "x", "n": n})
    assert refusal(taken) == (409, "id_conflict", "id")
    free = await quiet_door.http.post("/v1/jobs", json={"id": "a.2", "prompt": "x", "n": n})
    assert free.status_code == 202
