"""Pictures over HTTP: bytes, thumbnails, archives, and uploads to work from."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from redis.asyncio import Redis

from daemon.files.archive import pictures_of
from daemon.gateway.endpoints import archive as archive_of_gateway
from daemon.gateway.requests.uploads import Uploads
from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome
from daemon.storage.object_store import StorageError
from pixmill.contract import Job
from tests.daemon.gateway.rig import Door, open_door, refusal
from tests.daemon.harness import eventually
from tests.daemon.live import by_prompt, image_key, made
from tests.servers import RedisServer


def png(side: int = 32, colour: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
async def shop(redis: Redis, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Door]:
    """A gateway whose worker keeps a real picture of every item."""
    data = png()

    async def decide(item: Claimed, job: Job) -> Outcome | None:
        if job.prompt != "good":
            return await by_prompt(item, job)
        await doors[0].store.put_image(image_key(item), data)
        outcome = made(item)
        outcome.result["images"][0] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        return outcome

    doors: list[Door] = []
    async with open_door(redis, redis_server.url, decide=decide, store_dir=tmp_path / "store") as door:
        doors.append(door)
        yield door


async def succeeded(door: Door, address: str) -> None:
    async def look() -> bool:
        return bool((await door.http.get(address)).json().get("state") == "succeeded")

    await eventually(look)


async def one(door: Door, ident: str = "k1", **job: Any) -> str:
    """A job that has its picture; the address of that."""
    await door.http.post("/v1/jobs", json={"id": ident, "prompt": "good", **job})
    await succeeded(door, f"/v1/jobs/{ident}?tenant={job.get('tenant', 'default')}")
    return f"/v1/jobs/{ident}/images/0"


async def batch_of(door: Door, ident: str, rows: list[dict[str, Any]]) -> None:
    items = [{"id": f"i{k}", "prompt": "good", **row} for k, row in enumerate(rows)]
    await door.installation.submit({"id": ident, "items": items}, type="pixmill.batch.v1")

    async def ended() -> bool:
        view = await door.gateway.records.group(f"default/{ident}")
        return view is not None and view.ended

    await eventually(ended)


async def test_a_picture_is_shown_as_it_was_kept_for_ever(shop: Door) -> None:
    answer = await shop.http.get(await one(shop))
    assert answer.content == png()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"] == f'"{hashlib.sha256(png()).hexdigest()}"'
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


async def test_a_picture_that_the_caller_has_is_not_sent_again(shop: Door) -> None:
    address = await one(shop)
    tag = (await shop.http.get(address)).headers["etag"]
    again = await shop.http.get(address, headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")


async def test_a_thumbnail_is_made_where_the_store_has_none(shop: Door) -> None:
    answer = await shop.http.get(f"{await one(shop)}?thumb=1")
    with Image.open(io.BytesIO(answer.content)) as small:
        assert (small.format, small.size) == ("WEBP", (32, 32))
    assert answer.headers["content-type"] == "image/webp"


async def test_picture_k_of_several_is_found_under_the_job(shop: Door) -> None:
    await shop.http.post("/v1/jobs", json={"id": "many", "prompt": "good", "n": 3})

    async def last() -> bool:
        return (await shop.http.get("/v1/jobs/many/images/2")).status_code == 200

    await eventually(last)
    assert (await shop.http.get("/v1/jobs/many/images/3")).status_code == 404


@pytest.mark.parametrize(
    "address",
    ["k1/images/1", "k1/images/x", "k1/images/-1", "nobody/images/0", "..%2fk1/images/0", "%00/images/0"],
)
async def test_a_picture_that_is_not_there_is_not_found(shop: Door, address: str) -> None:
    await one(shop)
    answer = await shop.http.get(f"/v1/jobs/{address}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_another_tenants_picture_is_not_found(shop: Door) -> None:
    address = await one(shop, tenant="other")
    assert (await shop.http.get(address)).status_code == 404
    assert (await shop.http.get(f"{address}?tenant=other")).status_code == 200


async def test_a_picture_that_has_gone_from_the_store_has_a_code_of_its_own(
    shop: Door, tmp_path: Path
) -> None:
    address = await one(shop)
    for path in (tmp_path / "store").rglob("*.png"):
        path.unlink()
    answer = await shop.http.get(address)
    assert (answer.status_code, answer.json()["code"]) == (404, "picture_gone")


async def test_a_store_that_is_away_is_a_503_for_pictures_alone(
    shop: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = await one(shop)

    async def away(_: str) -> bytes:
        raise StorageError("s3://planted-bucket is away")

    monkeypatch.setattr(shop.store, "get", away)
    answer = await shop.http.get(address)
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    assert "planted" not in answer.text
    assert (await shop.http.get("/v1/jobs/k1")).status_code == 200


async def test_an_archive_has_its_manifests_first_then_the_pictures(shop: Door) -> None:
    rows: list[dict[str, Any]] = [{"metadata": {"sku": "壶/1", "stem": "main"}}, {"prompt": "bad"}, {}]
    await batch_of(shop, "b1", rows)
    answer = await shop.http.get("/v1/batches/b1/archive.zip", params={"names": "{sku}/{stem}"})
    assert answer.headers["content-disposition"] == 'attachment; filename="b1.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", "manifest.csv", "壶_1/main.png", "_/_.png"]
        manifest = json.loads(archive.read("manifest.json"))
        (first, *_) = csv.DictReader(io.StringIO(archive.read("manifest.csv").decode("utf-8-sig")))
    assert [item["state"] for item in manifest["items"]] == ["succeeded", "failed", "succeeded"]
    assert first["file"] == "壶_1/main.png"


async def test_a_picture_that_the_store_lacks_is_named_in_the_manifest(shop: Door, tmp_path: Path) -> None:
    await batch_of(shop, "b1", [{}, {}])
    next((tmp_path / "store").rglob("i0.png")).unlink()
    answer = await shop.http.get("/v1/batches/b1/archive.zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["manifest.json", "manifest.csv", "i1.png"]
        assert json.loads(archive.read("manifest.json"))["missing"] == ["i0.png"]


async def test_names_of_files_cannot_leave_the_archive(shop: Door) -> None:
    await batch_of(shop, "b1", [{"metadata": {"a": "../../etc"}}, {"metadata": {"a": "=1+1"}}])
    answer = await shop.http.get("/v1/batches/b1/archive.zip", params={"names": "../{a}"})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert not any(".." in name.split("/") or name.startswith("/") for name in archive.namelist())
        assert "'=1+1" in archive.read("manifest.csv").decode("utf-8-sig")


async def test_a_reader_that_goes_away_ends_an_archive_without_an_error(
    shop: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batch_of(shop, "b1", [{}])
    pictures = pictures_of(await shop.gateway.records.all_members("default/b1"))
    writes, go_on = threading.Event(), threading.Event()

    def slowly(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
        with archive.open(name, "w") as file:
            writes.set()
            go_on.wait(10)
            file.write(data)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", slowly)
    parts = archive_of_gateway._zipped(shop.gateway, {}, pictures)
    assert await anext(parts) == b""
    reading = asyncio.ensure_future(anext(parts))
    await asyncio.to_thread(writes.wait, 10)
    reading.cancel()
    try:
        with pytest.raises(asyncio.CancelledError):
            await reading
    finally:
        go_on.set()


async def test_a_template_of_names_that_cannot_be_read_is_named(shop: Door) -> None:
    await batch_of(shop, "b1", [{}])
    answer = await shop.http.get("/v1/batches/b1/archive.zip", params={"names": "{sku"})
    assert (answer.status_code, answer.json()["field"]) == (400, "names")


@pytest.mark.parametrize("address", ["/v1/jobs", "/v1/batches"])
@pytest.mark.parametrize("key", ["other/x.png", "default/../other/x.png", "default-2/x.png", "x.png"])
async def test_a_picture_of_another_tenant_is_no_input(
    quiet_door: Door, redis: Redis, address: str, key: str
) -> None:
    job = {"id": "k1", "prompt": "x", "inputs": [{"object": key}]}
    body = job if address == "/v1/jobs" else {"items": [job]}
    answer = await quiet_door.http.post(address, json=body)
    assert answer.status_code == 422
    assert answer.json()["field"].endswith("inputs.0.object")
    assert await redis.keys("pixmill:item:*") == []


async def test_an_upload_is_named_by_its_content(quiet_door: Door) -> None:
    data = png()
    sends = [
        await quiet_door.http.post("/v1/inputs", content=data, headers={"content-type": "image/png"})
        for _ in range(2)
    ]
    sha256 = hashlib.sha256(data).hexdigest()
    expected = {"object": f"default/inputs/{sha256}", "sha256": sha256, "width": 32, "height": 32}
    assert [(answer.status_code, answer.json()) for answer in sends] == [(201, expected)] * 2
    assert await quiet_door.store.get(f"default/inputs/{sha256}") == data


@pytest.mark.parametrize(
    ("data", "kind", "status", "code"),
    [
        (b"no picture", "image/png", 422, "invalid"),
        (b"", "image/png", 422, "invalid"),
        (png(), "text/html", 415, "unsupported_media_type"),
        (bytes(26 * 1024**2), "image/png", 413, "too_large"),
    ],
)
async def test_an_upload_that_is_no_picture_is_not_kept(
    quiet_door: Door, data: bytes, kind: str, status: int, code: str
) -> None:
    answer = await quiet_door.http.post("/v1/inputs", content=data, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_uploads_beyond_the_budget_are_refused_before_they_are_read(quiet_door: Door) -> None:
    quiet_door.gateway.uploads = Uploads(1024)
    send = await quiet_door.http.post("/v1/inputs", content=png(600), headers={"content-type": "image/png"})
    assert (send.status_code, send.json()["code"], send.headers["retry-after"]) == (503, "busy", "2")


async def test_the_budget_is_free_again_after_every_upload(quiet_door: Door) -> None:
    quiet_door.gateway.uploads = Uploads(30_000)
    kinds = [{"content-type": "image/png"}, {"content-type": "text/html"}]
    for content in (png(), b"no picture"):
        for headers in kinds:
            await quiet_door.http.post("/v1/inputs", content=content, headers=headers)
    with quiet_door.gateway.uploads.hold(30_000, None):
        await asyncio.sleep(0)


ODD = [
    "default",
    "default/",
    "default//a",
    "default/./a",
    "default/a/..",
    "default/a/",
    "default/\x00a",
    "default/a\n",
]


@pytest.mark.parametrize(
    "key", [*ODD, "default/\u202ea", "default\\a", "default/..\\a", "/default/a", "./default/a"]
)
async def test_an_input_with_an_odd_key_is_refused_and_nothing_is_stored(quiet_door: Door, key: str) -> None:
    answer = await quiet_door.http.post(
        "/v1/jobs", json={"id": "k1", "prompt": "x", "inputs": [{"object": key}]}
    )
    assert refusal(answer) == (422, "invalid", "inputs.0.object")
    assert await quiet_door.installation.redis.keys("pixmill:*k1*") == []


@pytest.mark.parametrize("tenant", ["../shop", "a/b", "", ".", "x" * 129, "a\x00"])
async def test_an_upload_for_an_odd_tenant_is_stored_nowhere(
    quiet_door: Door, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[str] = []

    async def put(key: str, *_: Any, **__: Any) -> None:
        stored.append(key)

    monkeypatch.setattr(quiet_door.store, "put_image", put)
    kind = {"content-type": "image/png"}
    answer = await quiet_door.http.post("/v1/inputs", params={"tenant": tenant}, content=png(), headers=kind)
    assert stored == []
    assert answer.status_code in (404, 422)
