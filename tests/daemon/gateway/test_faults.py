"""A gateway under faults: bodies that lie or drip, uploads without end, Redis away, and a foreign prefix."""

from __future__ import annotations

import asyncio
import errno
import http.client
import io
import os
import re
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import httpx2
import orjson
import pytest
from fastapi import FastAPI
from PIL import Image
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import Mount

from daemon.gateway.app import ROUTERS, create_app
from daemon.gateway.gateway import ANSWER_S
from daemon.gateway.requests import bodies
from daemon.gateway.requests.uploads import Uploads
from providers.http.asgi import AsgiServer
from tests.daemon.gateway.compat.decks import DECK, STUDIO
from tests.daemon.gateway.rig import Door, open_door, refusal
from tests.daemon.harness import eventually
from tests.servers import RedisServer

JOB = {"id": "k1", "prompt": "a kettle"}
JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}
MIB = 1024**2
SLACK_S = 2.0  # of a busy machine


async def raw(door: Door, path: str, headers: str, *parts: bytes, every_s: float = 0) -> tuple[int, str]:
    """Send a POST as it stands, part by part; the status and the code of its answer."""
    port = int(door.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n".encode())

    async def send() -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(every_s)

    sending = asyncio.create_task(send())
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(line for line in head.split("\r\n") if line.startswith("content-length"))
        text = (await reader.readexactly(int(length.split()[1]))).decode()
        found = re.search('"code":"([a-z_]+)"', text)
        return int(head.split()[1]), found[1] if found else ""
    finally:
        sending.cancel()
        await asyncio.wait([sending])
        writer.close()


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_a_body_that_drips_is_given_up_and_others_are_served(
    quiet_door: Door, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "SILENT_S", 0.5)
    drops = [b" "] * 1000
    headers = "content-type: application/json\r\ncontent-length: 1000"
    slow = asyncio.create_task(raw(quiet_door, "/v1/jobs", headers, *drops, every_s=0.02))
    assert (await quiet_door.http.get("/v1/me")).status_code == 200
    assert await slow == (408, "slow_body")
    assert await redis.keys("*") == []


async def test_a_body_that_ends_early_stores_nothing_and_leaves_no_traceback(
    quiet_door: Door, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    port = int(quiet_door.url.rpartition(":")[2])
    body = b'{"id":"k1","prompt":"a kettle"}'
    for path, kind in [("/v1/jobs", "application/json"), ("/v1/batches", "application/x-ndjson")]:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n".encode())
        writer.write(b"content-length: 1000\r\n\r\n" + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def answered() -> bool:
        metrics = quiet_door.gateway.metrics.http_requests.collect()
        return sum(one.value for each in metrics for one in each.samples if one.name.endswith("total")) == 2

    await eventually(answered)
    assert await redis.keys("*") == []
    assert "Traceback" not in caplog.text


async def test_what_comes_after_the_announced_end_is_no_part_of_the_body(quiet_door: Door) -> None:
    body = b'{"id":"k1","prompt":"a kettle"}'
    headers = f"content-type: application/json\r\ncontent-length: {len(body)}"
    assert (await raw(quiet_door, "/v1/jobs", headers, body + b"x" * 1000))[0] == 202
    assert (await quiet_door.http.get("/v1/jobs/k1")).json()["state"] == "queued"


@pytest.mark.parametrize(
    ("path", "kind", "most"),
    [
        ("/v1/jobs", "application/json", 2),
        ("/v1/batches", "application/x-ndjson", 64),
        ("/v1/inputs", "image/png", 25),
    ],
)
@pytest.mark.parametrize("form", ["announced", "in chunks"])
async def test_a_body_beyond_its_limit_is_read_no_further(
    quiet_door: Door, redis: Redis, path: str, kind: str, most: int, form: str
) -> None:
    sent = 0

    def parts() -> Any:
        nonlocal sent
        while sent < 4 * most:
            sent += 1
            yield chunked(bytes(MIB))

    if form == "announced":
        headers = f"content-length: {most * MIB + 1}"
        assert await raw(quiet_door, path, f"content-type: {kind}\r\n{headers}") == (413, "too_large")
    else:
        headers = "transfer-encoding: chunked"
        assert await raw(quiet_door, path, f"content-type: {kind}\r\n{headers}", *parts()) == (
            413,
            "too_large",
        )
    assert await redis.keys("*") == []


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


def form_of(count: int, size: int) -> tuple[bytes, dict[str, str]]:
    """An edit with `count` files of `size` bytes, each of which begins as a picture does."""
    data = picture() + bytes(size - len(picture()))
    part = (
        b'--b\r\ncontent-disposition: form-data; name="image[]"; filename="a.png"\r\n'
        b"content-type: image/png\r\n\r\n%b\r\n" % data
    )
    return part * count + b"--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}


async def test_many_large_edits_at_once_stay_within_the_budget(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = 40 * MIB
    quiet_door.gateway.uploads = uploads = Uploads(budget)
    body, headers = form_of(16, MIB)
    files: list[IO[bytes]] = []
    most_on_disk = 0

    def spool() -> IO[bytes]:
        files.append(tempfile.TemporaryFile())  # noqa: SIM115 - the gateway closes it
        return files[-1]

    async def send() -> int:
        return (await quiet_door.http.post("/v1/images/edits", content=body, headers=headers)).status_code

    monkeypatch.setattr("daemon.gateway.requests.uploads._spool", spool)
    sends = [asyncio.create_task(send()) for _ in range(20)]
    while (await asyncio.wait(sends, timeout=0.005))[1]:
        sizes = [os.fstat(file.fileno()).st_size for file in files if not file.closed]
        most_on_disk = max(most_on_disk, sum(sizes))
    assert {send.result() for send in sends} <= {400, 503}
    assert 503 in [send.result() for send in sends]
    assert most_on_disk <= budget / 2, "the parts are on the disk a second time"
    assert uploads._left == budget


def written_then_read(door: Door, path: str, kind: str, size: int) -> tuple[int, str]:
    """The status and the code of the answer to a client that writes all of a request before it reads."""
    connection = http.client.HTTPConnection("127.0.0.1", int(door.url.rpartition(":")[2]), timeout=30)
    try:
        connection.request("POST", path, bytes(size), {"content-type": kind})
        answer = connection.getresponse()
        body = orjson.loads(answer.read())
    finally:
        connection.close()
    return answer.status, str(body.get("code") or body["error"]["code"])


@pytest.mark.parametrize(
    ("path", "kind", "refused"),
    [
        ("/v1/images/edits", "multipart/form-data; boundary=b", (503, "busy")),
        ("/v1/inputs", "image/png", (503, "busy")),
        ("/v1/jobs", "application/json", (413, "too_large")),
        ("/v1/inputs", "text/plain", (415, "unsupported_media_type")),
    ],
)
async def test_each_of_many_large_uploads_at_once_gets_its_refusal(
    quiet_door: Door, path: str, kind: str, refused: tuple[int, str]
) -> None:
    quiet_door.gateway.uploads = Uploads(MIB)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(20) as threads:
        sends = [
            loop.run_in_executor(threads, written_then_read, quiet_door, path, kind, 8 * MIB)
            for _ in range(20)
        ]
        assert {await send for send in sends} == {refused}


async def test_a_full_disk_is_an_answer_of_its_own(quiet_door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("daemon.gateway.requests.uploads._spool", Full)
    answer = await quiet_door.http.post("/v1/batches", content=b"{}\n", headers=LINES)
    assert refusal(answer) == (503, "busy", None)


# Redis away

# Bodies with which endpoints come as far as to Redis; the others take an empty object, or no body.
PICTURES = {"prompt": "a kettle"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/jobs": {"json": JOB},
    "/v1/batches": {"json": {"id": "b1", "items": [{"id": "i1", "prompt": "a"}]}},
    "/v1/images/generations": {"json": PICTURES},
    "/v1/images/generations/async": {"json": PICTURES},
    "/v1/images/edits": {"data": PICTURES, "files": {"image": ("a.png", picture(), "image/png")}},
    "/v1/images/edits/async": {"data": PICTURES, "files": {"image": ("a.png", picture(), "image/png")}},
    "/api/slide/batch/generate": {"json": DECK},
    "/api/slide/batch/status": {"json": {"batch_id": "b1"}},
    "/api/image-studio/jobs": {"json": STUDIO},
}
PAUSE = {"json": {"reason": "a test"}}
WITHOUT_REDIS = (
    "/v1/me",
    "/v1/models",
    "/v1/models/{ident}",
    "/v1/session",
    "/v1/schema/{name}",
    "/v1/inputs",
)


def operations() -> list[tuple[str, str]]:
    """Each method and address that needs Redis, with ids in the place of parameters."""
    app = FastAPI()
    for router in ROUTERS:
        app.include_router(router)
    paths = app.openapi()["paths"].items()
    return [
        (method.upper(), path)
        for path, each in paths
        if path not in WITHOUT_REDIS
        for method in each
        if method != "head"
    ]


async def send(door: Door, method: str, path: str) -> tuple[int, str]:
    """The status of an answer, and its code."""
    address = re.sub(r"\{(\w+)\}", lambda found: "default" if found[1] == "name" else "1", path)
    if path.endswith("/dead/{ident}/retry"):
        address = "/v1/dead/1-1/retry"
    more = {} if method != "POST" else BODIES.get(path, PAUSE if path.endswith("/pause") else {"json": {}})
    headers = {"prefer": "respond-async"}
    async with (
        asyncio.timeout(ANSWER_S + SLACK_S),
        door.http.stream(method, address, headers=headers, **more) as answer,
    ):
        if answer.is_success or method == "HEAD":
            return answer.status_code, ""
        body = orjson.loads(await answer.aread())
        return answer.status_code, str(body.get("code") or body["error"]["code"])


async def statuses(door: Door) -> dict[tuple[str, str], tuple[int, str]]:
    """The answer of each operation."""
    answers = await asyncio.gather(*(send(door, *operation) for operation in operations()))
    return dict(zip(operations(), answers, strict=True))


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_without_redis_every_address_answers_in_time_and_works_again_after(how: str) -> None:
    server = RedisServer(persistent=True)
    assert server.process is not None
    try:
        async with (
            Redis.from_url(server.url) as redis,
            open_door(redis, server.url, decide=None, routes=("default", "slides", "studio")) as door,
        ):
            quotas: dict[str, dict[str, Any]] = {"default": {"images": "20/min"}}
            door.gateway.settings = door.gateway.settings.model_copy(update={"quotas": quotas})
            before = await statuses(door)
            assert not [operation for operation, (status, _) in before.items() if status >= 500]
            server.kill() if how == "killed" else server.process.send_signal(signal.SIGSTOP)
            during = await statuses(door)
            assert {key: value for key, value in during.items() if value != (503, "redis_unavailable")} == {}
            server.start() if how == "killed" else server.process.send_signal(signal.SIGCONT)

            async def serves() -> bool:
                return not [key for key, (status, _) in (await statuses(door)).items() if status >= 500]

            await eventually(serves)
    finally:
        server.process.send_signal(signal.SIGCONT)
        server.close()


# A foreign prefix


def addresses(value: Any) -> list[str]:
    """Every address in an answer."""
    match value:
        case dict():
            return [address for each in value.values() for address in addresses(each)]
        case list():
            return [address for each in value for address in addresses(each)]
        case str() if value.startswith("http"):
            return [value]
    return []


async def test_below_a_prefix_every_link_leads_back(door: Door) -> None:
    outer = AsgiServer(Starlette(routes=[Mount("/pixmill", create_app(door.gateway))]))
    await outer.start()
    try:
        async with httpx2.AsyncClient(base_url=f"{outer.url}/pixmill", timeout=30) as http:
            job = await http.post("/v1/jobs", json=JOB, headers={"prefer": "wait=20"})
            batch = await http.post("/v1/batches", json={"id": "b1", "items": [{"id": "i1", "prompt": "a"}]})
            listed = (await http.get("/v1/batches/b1/items")).json()
            links = addresses([job.json(), batch.json(), listed])
            links += [answer.headers["location"] for answer in (job, batch)]
            assert len(links) > 10
            assert [link for link in links if not link.startswith(f"{outer.url}/pixmill/v1/")] == []
            gets = [link for link in links if not re.search("/(cancel|retry|pause|resume|events)$", link)]
            found = {link: (await http.get(link)).status_code for link in gets}
            assert {
                link: status
                for link, status in found.items()
                if status in (404, 405) and "images" not in link
            } == {}
            cookie = (await http.delete("/v1/session")).headers["set-cookie"]
            assert "Path=/pixmill" in cookie
    finally:
        await outer.stop()


async def test_the_links_of_an_answer_are_those_of_its_own_host_and_prefix(quiet_door: Door) -> None:
    app = create_app(quiet_door.gateway)
    outer = AsgiServer(Starlette(routes=[Mount("/one", app), Mount("/two", app)]))
    await outer.start()
    try:
        async with httpx2.AsyncClient(base_url=outer.url, timeout=30) as http:
            await http.post("/one/v1/jobs", json=JOB)
            for _ in range(2):
                for host in ("localhost:1", "127.0.0.1:2"):
                    for prefix in ("/one", "/two"):
                        answer = await http.get(f"{prefix}/v1/jobs/{JOB['id']}", headers={"host": host})
                        links = addresses(answer.json())
                        own = f"http://{host}{prefix}/v1/"
                        assert links
                        assert [link for link in links if not link.startswith(own)] == []
    finally:
        await outer.stop()


@pytest.mark.parametrize("name", ["x-request-id", "prefer", "idempotency-key"])
async def test_no_header_of_a_request_becomes_another_one_of_the_answer(quiet_door: Door, name: str) -> None:
    for value in ("a%0d%0aset-cookie: x=1", "a\tset-cookie: x=1", "\xe9" * 8, "a" * 8000):
        headers = [(name.encode(), value.encode("latin-1"))]
        answer = await quiet_door.http.post("/v1/jobs", json={"prompt": "a"}, headers=headers)
        assert answer.status_code < 500
        assert "set-cookie" not in answer.headers
        assert value not in answer.headers.values()
