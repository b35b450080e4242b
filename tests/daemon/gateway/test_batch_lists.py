"""Batches and their items as lists: pages without a gap, filters, a summary, a log, and nothing of other tenants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from daemon.gateway.batches.pages import batches_of
from daemon.gateway.endpoints import batches
from pixmill.broker.streams import tail
from pixmill.records.records import ItemView
from tests.daemon.gateway.rig import Door
from tests.daemon.gateway.test_batches import batch, ended

MIXED = {
    "id": "b1",
    "items": [
        *({"id": f"good-{k}", "prompt": "x", "metadata": {"sku": str(k)}} for k in range(3)),
        *({"id": f"bad-{k}", "prompt": "bad"} for k in range(2)),
    ],
}


async def pages(door: Door, where: str, name: str) -> list[list[dict[str, Any]]]:
    """All pages of a list."""
    found, cursor = [], ""
    while cursor is not None:
        page = (await door.http.get(f"{where}{cursor and f'&cursor={cursor}'}")).json()
        found.append(page[name])
        cursor = page["next"]
    return found


async def test_batches_come_newest_first_and_by_pages(quiet_door: Door) -> None:
    for k in range(5):
        await quiet_door.http.post("/v1/batches", json=batch(f"b{k}", 1))
        await quiet_door.http.post("/v1/jobs", json={"id": f"j{k}", "prompt": "x"})
    found = await pages(quiet_door, "/v1/batches?limit=2", "batches")
    assert [[each["id"] for each in page] for page in found] == [["b4", "b3"], ["b2", "b1"], ["b0"]]


async def test_a_new_batch_moves_no_page(quiet_door: Door) -> None:
    for k in range(3):
        await quiet_door.http.post("/v1/batches", json=batch(f"b{k}", 1))
    first = (await quiet_door.http.get("/v1/batches?limit=2")).json()
    await quiet_door.http.post("/v1/batches", json=batch("b9", 1))
    rest = (await quiet_door.http.get(f"/v1/batches?limit=2&cursor={first['next']}")).json()
    assert [each["id"] for each in rest["batches"]] == ["b0"]


async def test_any_number_of_works_may_share_a_time(quiet_door: Door) -> None:
    for k in range(3):
        await quiet_door.http.post("/v1/batches", json=batch(f"b{k}", 1))
    redis, at_us = quiet_door.installation.redis, 10**15
    jobs = {f"default//j{k}": at_us + 1 for k in range(1100)}
    await redis.zadd("pixmill:index", {**jobs, **{f"default/b{k}": at_us for k in range(3)}})
    found = await pages(quiet_door, "/v1/batches?limit=1", "batches")
    assert [[each["id"] for each in page] for page in found] == [["b2"], ["b1"], ["b0"]]


async def test_batches_are_listed_by_state_and_of_one_tenant_alone(door: Door) -> None:
    await door.http.post("/v1/batches", json=batch("b1", 1))
    await door.http.post("/v1/batches", json=batch("foreign", 1, tenant="other"))
    await door.http.post("/v1/batches", json={"id": "b2", "items": [{"id": "a", "prompt": "slow"}]})
    await ended(door, "b1")
    for state, expected in (("completed", ["b1"]), ("running", ["b2"]), ("failed", [])):
        found = (await door.http.get(f"/v1/batches?state={state}")).json()["batches"]
        assert [each["id"] for each in found] == expected
    assert (await door.http.get("/v1/batches/foreign")).status_code == 404


async def test_items_come_in_their_order_and_by_pages(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 5))
    found = await pages(quiet_door, "/v1/batches/b1/items?limit=2", "items")
    assert [[each["id"] for each in page] for page in found] == [["i0", "i1"], ["i2", "i3"], ["i4"]]


async def test_a_page_reads_the_records_that_it_shows_and_one_more(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 9))
    records, read = quiet_door.gateway.records, list[str]()
    own = records.items

    async def items(uids: Sequence[str], **options: bool) -> list[ItemView | None]:
        read.extend(uids)
        return await own(uids, **options)

    monkeypatch.setattr(records, "items", items)
    await quiet_door.http.get("/v1/batches/b1/items?limit=4")
    assert read == [f"default/b1/i{k}" for k in range(5)]


async def test_records_that_are_gone_are_left_out_and_cost_one_more_look(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 9))
    records, looks = quiet_door.gateway.records, list[int]()
    own = records.items

    async def items(uids: Sequence[str], **options: bool) -> list[ItemView | None]:
        looks.append(len(uids))
        views = await own(uids, **options)
        return [None if uid[-1] in "2345" else view for uid, view in zip(uids, views, strict=True)]

    monkeypatch.setattr(records, "items", items)
    found = await pages(quiet_door, "/v1/batches/b1/items?limit=3", "items")
    assert [[each["id"] for each in page] for page in found] == [["i0", "i1", "i6"], ["i7", "i8"]]
    assert looks == [4, 5, 2]


async def test_a_page_that_ends_at_the_last_item_is_the_last_one(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 4))
    found = await pages(quiet_door, "/v1/batches/b1/items?limit=2", "items")
    assert [[each["id"] for each in page] for page in found] == [["i0", "i1"], ["i2", "i3"]]


async def test_items_are_listed_by_state_and_by_the_kind_of_their_error(door: Door) -> None:
    await door.http.post("/v1/batches", json=MIXED)
    await ended(door, "b1")
    for where, expected in (
        ("state=succeeded", ["good-0", "good-1", "good-2"]),
        ("kind=moderation_input", ["bad-0", "bad-1"]),
        ("state=succeeded&kind=moderation_input", []),
    ):
        found = (await door.http.get(f"/v1/batches/b1/items?{where}")).json()["items"]
        assert [item["id"] for item in found] == expected
    item = (await door.http.get("/v1/batches/b1/items?limit=1")).json()["items"][0]
    assert (item["state"], item["metadata"], item["error"]) == ("succeeded", {"sku": "0"}, None)


async def test_a_list_shows_the_beginning_of_a_prompt_and_the_attempts(quiet_door: Door) -> None:
    item = {"id": "a", "prompt": "x" * 10_000, "max_attempts": 3}
    await quiet_door.http.post("/v1/batches", json={"id": "b1", "items": [item]})
    await quiet_door.installation.take_all()
    (found,) = (await quiet_door.http.get("/v1/batches/b1/items")).json()["items"]
    assert (found["prompt"], found["attempts"], found["max_attempts"]) == ("x" * 500, 0, 3)
    assert (found["submitted"], found["width"], found["height"]) == (False, None, None)


async def test_a_list_shows_that_the_provider_has_accepted_an_item(quiet_door: Door) -> None:
    await quiet_door.installation.batch("b1", 1)
    (item,) = await quiet_door.installation.claim()
    await quiet_door.installation.queue.note_receipt(item, b'{"task_id":"t1"}')
    (found,) = (await quiet_door.http.get("/v1/batches/b1/items")).json()["items"]
    assert (found["state"], found["submitted"]) == ("running", True)


async def test_a_list_shows_the_size_of_a_picture(door: Door) -> None:
    await door.http.post("/v1/batches", json=batch("b1", 1))
    await ended(door, "b1")
    (found,) = (await door.http.get("/v1/batches/b1/items")).json()["items"]
    (image,) = (await door.http.get("/v1/batches/b1/items/i0")).json()["images"]
    assert (found["width"], found["height"]) == (image["width"], image["height"])


async def test_items_name_an_event_before_which_nothing_is_missing(quiet_door: Door) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 2))
    answer = await quiet_door.http.get("/v1/batches/b1/items")
    newest = await quiet_door.installation.redis.xrevrange("pixmill:events", count=1)
    assert answer.headers["pixmill-event-id"] == newest[0][0].decode()


async def test_a_summary_counts_the_kinds_of_failures_and_the_cost(door: Door) -> None:
    await door.http.post("/v1/batches", json=MIXED)
    record = await ended(door, "b1")
    summary = record["summary"]
    assert (record["state"], summary["success_rate"], summary["cost"]) == ("completed_with_errors", 0.6, {})
    (failure,) = summary["failures"]
    assert (failure["kind"], failure["count"]) == ("moderation_input", 2)
    assert failure["example"]["message"] == "The provider refuses this prompt."


async def test_a_log_has_the_time_of_each_item_also_of_a_failed_one(door: Door) -> None:
    await door.http.post("/v1/batches", json=MIXED)
    await ended(door, "b1")
    log = (await door.http.get("/v1/batches/b1/log")).json()
    assert (log["session_id"], log["total"], log["succeeded"], log["failed"]) == ("b1", 5, 3, 2)
    times = [item["seconds"] for item in log["items"]]
    assert all(time >= 0 for time in times)
    assert log["mean_seconds"] == pytest.approx(sum(times) / 5, abs=0.001)
    assert log["items"][3]["error"] == "The provider refuses this prompt."


@pytest.mark.parametrize("where", ["/v1/batches", "/v1/batches/b1/items"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "1001"),
        ("limit", "many"),
        ("cursor", "x"),
        ("cursor", "é"),
        ("cursor", "WzFd"),
        ("cursor", "WyJiIiwtMSwiYSJd"),  # ["b",-1,"a"]
        ("cursor", "WyJiIix0cnVlLCJhIl0"),  # ["b",true,"a"]
        ("cursor", "WyJpIix0cnVlXQ"),  # ["i",true]
        ("state", "lost"),
    ],
)
async def test_a_wrong_parameter_of_a_list_is_named(
    quiet_door: Door, where: str, name: str, value: str
) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 1))
    answer = await quiet_door.http.get(where, params={name: value})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (400, "bad_parameter", name)


async def test_a_cursor_of_one_list_is_none_of_the_other(quiet_door: Door) -> None:
    for k in range(2):
        await quiet_door.http.post("/v1/batches", json=batch(f"b{k}", 2))
    cursor = (await quiet_door.http.get("/v1/batches?limit=1")).json()["next"]
    assert (await quiet_door.http.get("/v1/batches/b1/items", params={"cursor": cursor})).status_code == 400


@pytest.mark.parametrize("ident", ["..%2fb1", "b%00", "b" * 129, "unknown", "%2e%2e", "b1%2fx", "é"])
@pytest.mark.parametrize(
    ("method", "rest"),
    [
        ("GET", ""),
        ("GET", "/items"),
        ("GET", "/log"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("DELETE", ""),
    ],
)
async def test_an_unknown_or_odd_batch_is_not_found(
    quiet_door: Door, method: str, rest: str, ident: str
) -> None:
    answer = await quiet_door.http.request(
        method, f"/v1/batches/{ident}{rest}", json={} if method == "POST" else None
    )
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_list_of_batches_names_an_event_after_which_nothing_is_missing(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    await quiet_door.http.post("/v1/batches", json=batch("b1", 1))
    redis, events = quiet_door.installation.redis, quiet_door.gateway.keys.events
    before = await tail(redis, events)

    async def listed_before_another_is_accepted(*given: Any, **named: Any) -> Any:
        found = await batches_of(*given, **named)
        await quiet_door.installation.batch("b2", 1)
        return found

    monkeypatch.setattr(batches, "batches_of", listed_before_another_is_accepted)
    listed = await quiet_door.http.get("/v1/batches")
    assert [each["id"] for each in listed.json()["batches"]] == ["b1"]
    assert listed.headers["pixmill-event-id"] == before != await tail(redis, events)
