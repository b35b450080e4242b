"""Batches over HTTP: the same content is the same batch, a fault stores nothing, and every list has its pages."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from pixmill.client.sending import batch_parts
from tests.daemon.gateway.rig import Door, open_door
from tests.daemon.harness import eventually
from tests.servers import RedisServer

LINES = {"Content-Type": "application/x-ndjson"}
TABLE = {"Content-Type": "text/csv"}


def batch(ident: str, count: int, **more: Any) -> dict[str, Any]:
    items = [{"id": f"i{k}", "prompt": f"kettle {k}"} for k in range(count)]
    return {"id": ident, "items": items, **more}


def lines(head: dict[str, Any], *items: Any) -> bytes:
    return b"\n".join(orjson.dumps(each) for each in (head, *items))


async def keys(door: Door) -> list[bytes]:
    found: list[bytes] = await door.installation.redis.keys("*")
    return sorted(found)


async def ended(door: Door, ident: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        record: dict[str, Any] = (await door.http.get(f"/v1/batches/{ident}")).json()
        return record if record["state"] != "running" else None

    found: dict[str, Any] = await eventually(look)
    return found


async def test_a_batch_is_accepted_made_and_shown(door: Door) -> None:
    accepted = await door.http.post("/v1/batches", json=batch("b1", 3))
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"{door.url}/v1/batches/b1"
    body = accepted.json()
    assert (body["id"], body["total"], sum(body["counts"].values())) == ("b1", 3, 6)
    assert body["urls"]["items"] == f"{door.url}/v1/batches/b1/items"
    record = await ended(door, "b1")
    assert record["counts"]["succeeded"] == record["counts"]["total"] == 3
    assert (record["progress"], record["eta_seconds"], record["summary"]["success_rate"]) == (1.0, 0.0, 1.0)


async def test_a_batch_is_accepted_while_no_worker_is_up(quiet_door: Door) -> None:
    body = (await quiet_door.http.post("/v1/batches", json=batch("b1", 250))).json()
    assert body["counts"]["queued"] == 250
    assert len((await quiet_door.http.get("/v1/batches/b1/items?limit=1000")).json()["items"]) == 250


async def test_a_batch_by_the_stream_and_by_http_is_one_batch(quiet_door: Door) -> None:
    installation = quiet_door.installation
    await installation.batch("b1", 3)
    same = {"id": "b1", "defaults": {"prompt": "x"}, "items": [{"id": f"i{k}"} for k in range(3)]}
    assert (await quiet_door.http.post("/v1/batches", json=same)).json()["total"] == 3
    as_lines = lines({"id": "b1", "defaults": {"prompt": "x"}}, *same["items"])
    assert (await quiet_door.http.post("/v1/batches", content=as_lines, headers=LINES)).status_code == 202
    assert await installation.redis.zcard(installation.keys.members("default/b1")) == 3
    assert await installation.redis.keys("pixmill:accepting*") == []


async def test_a_large_batch_by_the_stream_and_by_http_is_one_batch(quiet_door: Door) -> None:
    head, items = {"id": "b1", "defaults": {"size": "1:1"}}, batch("b1", 2500)["items"]
    sent = await quiet_door.http.post("/v1/batches", content=lines(head, *items), headers=LINES)
    assert (sent.status_code, sent.json()["total"]) == (202, 2500)
    for data in batch_parts({**head, "tenant": "default"}, items):
        await quiet_door.installation.add(data, type="pixmill.batch.v1")
    await quiet_door.installation.take_all()
    kinds = await quiet_door.installation.kinds()
    assert (kinds.count("job.duplicate"), kinds.count("job.rejected")) == (3, 0)


def cut_differently(one: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
    """Items that are cut at other places under the two heads."""
    for size in range(300, 400):
        items = [{"id": f"i{k}", "prompt": "x" * size} for k in range(1200)]
        cuts = [len(orjson.loads(batch_parts(head, items)[0])["items"]) for head in (one, other)]
        if cuts[0] != cuts[1]:
            return items
    raise AssertionError("the heads make no difference")


async def test_a_batch_is_cut_as_its_sender_would_cut_it(quiet_door: Door) -> None:
    head = {"id": "b1", "tenant": "default"}
    items = cut_differently(head, {**head, "defaults": {}})
    await quiet_door.http.post("/v1/batches", content=lines(head, *items), headers=LINES)
    for data in batch_parts(head, items):
        await quiet_door.installation.add(data, type="pixmill.batch.v1")
    await quiet_door.installation.take_all()
    kinds = await quiet_door.installation.kinds()
    assert (kinds.count("job.duplicate"), kinds.count("job.rejected")) == (len(batch_parts(head, items)), 0)


async def test_the_same_key_is_the_same_batch(quiet_door: Door) -> None:
    content = {"items": [{"id": "a", "prompt": "x"}]}
    key = {"Idempotency-Key": "order 66"}
    first, second = [
        (await quiet_door.http.post("/v1/batches", json=content, headers=key)).json() for _ in "ab"
    ]
    assert first["id"] == second["id"]
    assert first["id"].startswith("i-")
    other = {"items": [{"id": "a", "prompt": "y"}]}
    assert (await quiet_door.http.post("/v1/batches", json=other, headers=key)).json()[
        "code"
    ] == "id_conflict"


async def test_a_csv_is_a_batch(quiet_door: Door) -> None:
    table = "sku,title,id\n77,Kettle,1\n78,Pot,2\n"
    where = "/v1/batches?id=b1&id_column=sku&prompt_template={title}, white&route=default&max_in_flight=3"
    accepted = await quiet_door.http.post(where, content=table, headers=TABLE)
    assert accepted.json()["total"] == 2
    items = (await quiet_door.http.get("/v1/batches/b1/items")).json()["items"]
    assert [item["id"] for item in items] == ["77", "78"]
    assert b"Kettle, white" in await quiet_door.installation.redis.hget("pixmill:item:default/b1/77", "spec")


async def test_a_fault_in_line_9999_stores_nothing_and_is_named(quiet_door: Door) -> None:
    before = await keys(quiet_door)
    items = batch("b1", 9999)["items"]
    items[9997]["size"] = "large"
    refused = await quiet_door.http.post("/v1/batches", content=lines({"id": "b1"}, *items), headers=LINES)
    assert (refused.status_code, refused.json()["line"], refused.json()["field"]) == (422, 9999, "size")
    assert await keys(quiet_door) == before


async def test_a_route_that_is_unknown_in_a_late_part_stores_nothing(quiet_door: Door) -> None:
    before = await keys(quiet_door)
    items = batch("b1", 2000)["items"]
    items[1500]["route"] = "nowhere"
    refused = await quiet_door.http.post("/v1/batches", content=lines({"id": "b1"}, *items), headers=LINES)
    assert (refused.status_code, refused.json()["line"]) == (422, 1502)
    assert refused.json()["field"] == "items.1500.route"
    assert await keys(quiet_door) == before


HEAD, ITEM = {"id": "b1"}, {"id": "a", "prompt": "x"}
SECRET = {"id": "a", "prompt": "x", "api_key": "k"}
DEEP: Any = "x"
for _ in range(40):
    DEEP = {"x_a": DEEP}
REFUSED: dict[str, tuple[Any, str, int, str, str | None]] = {
    "broken JSON": (b'{"id":', "application/json", 400, "malformed", None),
    "not an object": (b"[]", "application/json", 400, "malformed", None),
    "deeper than 32": (
        {**HEAD, "items": [{**ITEM, "x_a": DEEP}]},
        "application/json",
        400,
        "malformed",
        None,
    ),
    "no items": (HEAD, "application/json", 422, "invalid", "items"),
    "items that are none": ({**HEAD, "items": [3]}, "application/json", 422, "invalid", "items.0"),
    "items in words": ({**HEAD, "items": "all"}, "application/json", 422, "invalid", "items"),
    "1001 items": (batch("b1", 1001), "application/json", 422, "invalid", "items"),
    "an unknown field": (
        {**HEAD, "items": [ITEM], "itms": 1},
        "application/json",
        422,
        "unknown_field",
        "itms",
    ),
    "an unknown field of an item": (
        {**HEAD, "items": [ITEM, {**ITEM, "id": "b", "promt": "x"}]},
        "application/json",
        422,
        "unknown_field",
        "items.1.promt",
    ),
    "defaults that are none": (
        {**HEAD, "items": [ITEM], "defaults": []},
        "application/json",
        422,
        "invalid",
        "defaults",
    ),
    "a wrong default": (
        {**HEAD, "items": [ITEM], "defaults": {"n": 0}},
        "application/json",
        422,
        "invalid",
        "defaults.n",
    ),
    "two items of one id": (
        {**HEAD, "items": [ITEM, ITEM]},
        "application/json",
        422,
        "invalid",
        "items.1.id",
    ),
    "a part": ({**HEAD, "items": [ITEM], "part": 1}, "application/json", 422, "unknown_field", "part"),
    "an odd id": ({"id": "../b", "items": [ITEM]}, "application/json", 422, "invalid", "id"),
    "an id that is a number": ({"id": 7, "items": [ITEM]}, "application/json", 422, "invalid", "id"),
    "a tenant that is a number": (
        {**HEAD, "tenant": 7, "items": [ITEM]},
        "application/json",
        422,
        "invalid",
        "tenant",
    ),
    "a secret": (
        {**HEAD, "items": [SECRET]},
        "application/json",
        422,
        "secret_in_payload",
        "items.0.api_key",
    ),
    "a callback over plain http": (
        {**HEAD, "items": [ITEM], "callback": {"url": "http://x.example/"}},
        "application/json",
        422,
        "forbidden_address",
        "callback.url",
    ),
    "another type": (b"x", "text/plain", 415, "unsupported_media_type", None),
    "more than 2 MiB": (b" " * (2 * 1024**2 + 1), "application/json", 413, "too_large", None),
    "lines without a head": (b"", "application/x-ndjson", 400, "malformed", None),
    "lines without items": (lines(HEAD), "application/x-ndjson", 422, "invalid", None),
    "a head with items": (
        lines({**HEAD, "items": [ITEM]}, ITEM),
        "application/x-ndjson",
        422,
        "unknown_field",
        "items",
    ),
    "a broken line": (lines(HEAD, ITEM) + b'\n{"id"', "application/x-ndjson", 400, "malformed", None),
    "a secret in a line": (lines(HEAD, SECRET), "application/x-ndjson", 422, "secret_in_payload", "api_key"),
    "a table without prompts": (b"a,b\n1,2\n", "text/csv", 422, "invalid", None),
    "a table that is not UTF-8": (b"prompt\n\xff\xfe\n", "text/csv", 422, "invalid", None),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_bad_batch_is_refused_and_nothing_is_stored(quiet_door: Door, what: str) -> None:
    body, kind, status, code, field = REFUSED[what]
    before = await keys(quiet_door)
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    answer = await quiet_door.http.post("/v1/batches", content=content, headers={"Content-Type": kind})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem.get("field")) == (status, code, field), problem
    assert await keys(quiet_door) == before


@pytest.mark.parametrize(
    ("where", "field"),
    [
        ("?dry_run=perhaps", "dry_run"),
        ("?skip_empty=perhaps", "skip_empty"),
        ("?prompt_template={title", "prompt_template"),
    ],
)
async def test_a_wrong_parameter_of_a_batch_is_named(quiet_door: Door, where: str, field: str) -> None:
    answer = await quiet_door.http.post(f"/v1/batches{where}", content="title\nx\n", headers=TABLE)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
        400,
        "bad_parameter",
        field,
    )


async def test_the_sentences_about_a_table_name_parameters_and_no_options(quiet_door: Door) -> None:
    told = ""
    for where in ("", "?prompt_template={title}", "?ignore=x&prompt_template={title}"):
        answer = await quiet_door.http.post(f"/v1/batches{where}", content="title,promt\n,x\n", headers=TABLE)
        told += " ".join(fault["message"] for fault in answer.json()["refused"])
    assert "--" not in told
    assert "`skip_empty=true`" in told


async def test_10001_lines_are_refused_and_nothing_is_stored(quiet_door: Door) -> None:
    before = await keys(quiet_door)
    many = lines({"id": "b1"}, *batch("b1", 10_001)["items"])
    answer = await quiet_door.http.post("/v1/batches", content=many, headers=LINES)
    assert (answer.status_code, answer.json()["line"]) == (422, 10_002)
    assert await keys(quiet_door) == before


async def test_an_id_and_a_key_together_are_refused(quiet_door: Door) -> None:
    key = {"Idempotency-Key": "k"}
    answer = await quiet_door.http.post("/v1/batches", json=batch("b1", 1), headers=key)
    assert (answer.status_code, answer.json()["field"]) == (422, "id")


async def test_a_full_backlog_refuses_the_whole_batch_and_stores_nothing(
    redis: Redis, redis_server: RedisServer
) -> None:
    async with open_door(redis, redis_server.url, decide=None, cap=10) as door:
        before = await keys(door)
        answer = await door.http.post("/v1/batches", json=batch("b1", 11))
        assert (answer.status_code, answer.json()["code"]) == (429, "backlog_full")
        assert await keys(door) == before
