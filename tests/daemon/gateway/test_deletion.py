"""A deletion is final: no picture, no record, no letter stays; what breaks off is completed by the next request."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.queue.dead_letters import DeadLetters
from daemon.queue.outcomes import Retry
from daemon.storage.keeper import thumb_key
from daemon.storage.object_store import StorageError
from tests.daemon.gateway.rig import Door
from tests.daemon.gateway.test_batch_lists import MIXED
from tests.daemon.gateway.test_batches import LINES, batch, ended, lines
from tests.daemon.harness import eventually
from tests.daemon.live import image_key, made, picture

BUSY = {"kind": "server", "message": "No.", "charged": "no"}
SHARED = {"events", "installation", "usage"}  # of the installation; events are trimmed by their number


async def keys(door: Door, word: str) -> list[str]:
    """The keys whose name or value holds a word."""
    redis = door.installation.redis
    found = []
    for key in await redis.keys("*"):
        kind = await redis.type(key)
        value = await {
            b"hash": redis.hgetall,
            b"stream": redis.xrange,
            b"string": redis.get,
        }.get(kind, redis.exists)(key)
        if kind == b"zset":
            value = await redis.zrange(key, 0, -1)
        if word in key.decode() or word in str(value):
            found.append(key.decode())
    return sorted(name for name in found if name.split(":", 1)[1] not in SHARED)


async def end_all(door: Door) -> list[str]:
    """Make the pictures of all that waits; returns their keys in the store."""
    stored = []
    while items := await door.installation.claim(50):
        for item in items:
            key = image_key(item)
            await door.store.put_image(key, picture(item))
            await door.store.put_image(thumb_key(key), b"small")
            await door.installation.queue.settle(item, made(item))
            stored.append(key)
    return stored


@pytest.mark.parametrize(("kind", "content"), [("jobs", {}), ("jobs", {"n": 3})])
async def test_a_deleted_job_leaves_nothing(quiet_door: Door, kind: str, content: dict[str, Any]) -> None:
    await quiet_door.http.post("/v1/jobs", json={"id": "gone", "prompt": "a", "cache": "use", **content})
    await quiet_door.http.post("/v1/jobs", json={"id": "stays", "prompt": "b"})
    stored = await end_all(quiet_door)
    assert (await quiet_door.http.delete("/v1/jobs/gone")).status_code == 204
    left = [key for key in stored if await quiet_door.store.exists(key)]
    assert left == [key for key in stored if "stays" in key]
    assert not any([await quiet_door.store.exists(thumb_key(key)) for key in stored if "gone" in key])
    assert await keys(quiet_door, "gone") == []
    assert (await quiet_door.http.get("/v1/jobs/gone")).status_code == 404
    assert (await quiet_door.http.delete("/v1/jobs/gone")).status_code == 404


async def test_a_deleted_batch_leaves_nothing_and_others_stay(quiet_door: Door) -> None:
    items = batch("gone", 1200)["items"]
    await quiet_door.http.post("/v1/batches", content=lines({"id": "gone"}, *items), headers=LINES)
    await quiet_door.http.post("/v1/batches", json=batch("gone", 1, tenant="other"))
    stored = await end_all(quiet_door)
    assert (await quiet_door.http.delete("/v1/batches/gone")).status_code == 204
    assert [key for key in stored if await quiet_door.store.exists(key)] == [
        key for key in stored if key.startswith("other/")
    ]
    assert await keys(quiet_door, "default/gone") == []
    events = await quiet_door.installation.events("pixmill:events:gone")
    assert {data["tenant"] for _, data in events} == {"other"}
    assert (await quiet_door.http.get("/v1/batches/gone")).status_code == 404
    assert (await quiet_door.http.get("/v1/batches/gone?tenant=other")).status_code == 200


async def test_a_deleted_batch_leaves_no_dead_letter(quiet_door: Door) -> None:
    installation = quiet_door.installation
    for ident in ("gone", "stays"):
        await quiet_door.http.post("/v1/batches", json=batch(ident, 1, defaults={"max_attempts": 1}))
    for item in await installation.claim(2):
        assert await installation.queue.settle(item, Retry(BUSY, 0.0)) == "failed"
    assert len(await installation.dead()) == 2
    assert (await quiet_door.http.delete("/v1/batches/gone")).status_code == 204
    assert ["stays" in letter["ids"] for letter in await installation.dead()] == [True]


@pytest.mark.parametrize("ends", ["made", "cancelled"])
async def test_a_deletion_takes_the_letters_of_items_that_ended_otherwise_since(
    quiet_door: Door, ends: str
) -> None:
    installation = quiet_door.installation
    once = {"max_attempts": 1}
    await quiet_door.http.post("/v1/batches", json=batch("gone", 1, defaults=once))
    await quiet_door.http.post("/v1/jobs", json={"id": "gone", "prompt": "x", **once})
    for item in await installation.claim(2):
        await installation.queue.settle(item, Retry(BUSY, 0.0))
    for where in ("batches/gone", "jobs/gone"):
        assert (await quiet_door.http.post(f"/v1/{where}/retry", json={})).status_code == 202
    assert len(await installation.dead()) == 2, "an order by itself leaves them"
    if ends == "made":
        await end_all(quiet_door)
    for where in ("batches/gone", "jobs/gone"):
        if ends == "cancelled":
            await quiet_door.http.post(f"/v1/{where}/cancel", json={})
        assert (await quiet_door.http.delete(f"/v1/{where}")).status_code == 204
    assert await installation.dead() == []


async def test_a_deletion_reads_the_dead_letters_once(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, real = 0, DeadLetters.oldest_first

    def counted(*given: Any, **more: Any) -> Any:
        nonlocal scans
        scans += 1
        return real(*given, **more)

    monkeypatch.setattr(DeadLetters, "oldest_first", counted)
    items = batch("gone", 1200)["items"]
    head = {"id": "gone", "defaults": {"max_attempts": 1}}
    await quiet_door.http.post("/v1/batches", content=lines(head, *items), headers=LINES)
    while claimed := await quiet_door.installation.claim(200):
        for item in claimed:
            await quiet_door.installation.queue.settle(item, Retry(BUSY, 0.0))
    assert (await quiet_door.http.delete("/v1/batches/gone")).status_code == 204
    assert (scans, await quiet_door.installation.dead()) == (1, [])


async def test_what_has_not_ended_is_not_deleted(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 2))
    await quiet_door.http.post("/v1/jobs", json={"id": "j1", "prompt": "x"})
    await quiet_door.http.post("/v1/jobs", json={"id": "j2", "prompt": "x", "n": 2})
    before = await quiet_door.installation.redis.keys("*")
    for where in ("batches/b1", "jobs/j1", "jobs/j2"):
        answer = await quiet_door.http.delete(f"/v1/{where}")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_ended")
    assert sorted(await quiet_door.installation.redis.keys("*")) == sorted(before)


async def test_a_picture_of_a_job_is_not_deleted_alone(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/jobs", json={"id": "j", "prompt": "x", "n": 2})
    await end_all(quiet_door)
    assert (await quiet_door.http.delete("/v1/jobs/j.0")).status_code == 404
    assert (await quiet_door.http.get("/v1/jobs/j")).status_code == 200


async def test_a_deletion_that_the_store_stops_can_be_repeated(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("gone", 3))
    stored = await end_all(quiet_door)

    async def fails(_: object) -> None:
        raise StorageError("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(quiet_door.store, "delete", fails)
        answer = await quiet_door.http.delete("/v1/batches/gone")
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    assert (await quiet_door.http.get("/v1/batches/gone")).status_code == 404, "its deletion has begun"
    assert (await quiet_door.http.post("/v1/batches/gone/retry", json={})).status_code == 404
    assert (await quiet_door.http.delete("/v1/batches/gone")).status_code == 204
    assert not any([await quiet_door.store.exists(key) for key in stored])
    assert await keys(quiet_door, "gone") == []


async def test_nothing_opens_work_again_whose_deletion_has_begun(quiet_door: Door) -> None:
    installation = quiet_door.installation
    await quiet_door.http.post("/v1/batches", json=batch("b1", 2))
    await quiet_door.http.post("/v1/jobs", json={"id": "j1", "prompt": "x"})
    await installation.orders.cancel("group", "default/b1", ["queued"])
    await installation.orders.cancel("item", "default//j1", ["queued"])
    for kind, name, member in (
        ("group", "default/b1", "default/b1/i0"),
        ("item", "default//j1", "default//j1"),
    ):
        assert await installation.orders.begin_delete(kind, name) == "more"  # type: ignore[arg-type]  # a pair of words
        assert not (await installation.orders.retry("item", member, ["cancelled"])).known
    assert not (await installation.orders.retry_members("default/b1", ["default/b1/i0"], ["cancelled"])).known
    assert (await quiet_door.http.post("/v1/batches", json=batch("b1", 2))).json()["code"] == "id_conflict"
    again = await quiet_door.http.post("/v1/jobs", json={"id": "j1", "prompt": "x"})
    assert again.json()["code"] == "id_conflict"


async def test_a_deleted_picture_leaves_the_cache_and_copies_stay(quiet_door: Door) -> None:
    installation = quiet_door.installation
    await quiet_door.http.post("/v1/jobs", json={"id": "first", "prompt": "x", "cache": "use"})
    await end_all(quiet_door)
    assert len(await installation.redis.keys("pixmill:picture:*")) == 1
    await quiet_door.http.delete("/v1/jobs/first")
    assert await installation.redis.keys("pixmill:picture:*") == []
    await quiet_door.http.post("/v1/jobs", json={"id": "second", "prompt": "x", "cache": "use"})
    assert len(await installation.claim(1)) == 1, "it is made, since there is nothing to copy"


async def test_a_cancelled_batch_with_tombstones_is_deleted_and_its_queue_goes_on(quiet_door: Door) -> None:
    installation = quiet_door.installation
    await quiet_door.http.post("/v1/batches", json=batch("gone", 5))
    await quiet_door.http.post("/v1/batches/gone/cancel", json={})
    assert (await quiet_door.http.delete("/v1/batches/gone")).status_code == 204
    await quiet_door.http.post("/v1/batches", json=batch("b2", 2))
    claim = await installation.queue.claim("default", 10)
    assert ([item.uid for item in claim.items], claim.lost) == (["default/b2/i0", "default/b2/i1"], 0)


async def test_a_foreign_batch_is_not_deleted(door: Door) -> None:
    await door.http.post("/v1/batches", json={**MIXED, "tenant": "other"})

    async def done() -> bool:
        return bool((await door.http.get("/v1/batches/b1?tenant=other")).json()["progress"] == 1.0)

    await eventually(done)
    assert (await door.http.delete("/v1/batches/b1")).status_code == 404
    assert (await door.http.get("/v1/batches/b1?tenant=other")).status_code == 200


async def test_a_batch_may_be_sent_again_after_its_deletion(door: Door) -> None:
    await door.http.post("/v1/batches", json=batch("b1", 2))
    await ended(door, "b1")
    assert (await door.http.delete("/v1/batches/b1")).status_code == 204
    assert (await door.http.post("/v1/batches", json=batch("b1", 3))).json()["total"] == 3
    assert (await ended(door, "b1"))["counts"]["succeeded"] == 3


async def test_a_deletion_that_breaks_off_between_two_pages_can_be_repeated(quiet_door: Door) -> None:
    items = batch("gone", 1200)["items"]
    await quiet_door.http.post("/v1/batches", content=lines({"id": "gone"}, *items), headers=LINES)
    await quiet_door.http.post("/v1/batches/gone/cancel", json={})
    orders = quiet_door.installation.orders
    assert await orders.begin_delete("group", "default/gone") == "more"
    assert await orders._delete("group", "default/gone") == "more"
    assert 0 < await quiet_door.installation.redis.zcard("pixmill:members:default/gone") < 1200
    assert (await quiet_door.http.delete("/v1/batches/gone")).status_code == 204
    left = await quiet_door.installation.redis.keys("pixmill:*gone*")
    assert [key for key in left if not key.startswith(b"pixmill:backlog:")] == [], (
        "tombstones are stepped over"
    )
