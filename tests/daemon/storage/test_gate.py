"""A failing object store loses no paid picture, and no picture is bought that cannot be stored."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from PIL import Image
from redis.asyncio import Redis

from daemon.accounts.routes import Route, Routes
from daemon.queue.messages import Claimed
from daemon.replica import Replica
from daemon.settings import Settings
from daemon.storage.object_store import ResultStore, StorageError, object_key
from daemon.worker import executor
from pixmill.records.keys import Keys
from providers.base import Generated, Picture, Request, Submitted
from tests.daemon.harness import NO_WEBHOOKS, ScriptedProvider, as_read, eventually
from tests.object_stores import S3, Fault, Front, SmallDisk
from tests.servers import RedisServer

BUCKET = "s3://pictures/shop"


def png(side: int = 160, seed: int = 0) -> bytes:
    """A picture of some 75 KB that cannot be packed."""
    target = io.BytesIO()
    Image.effect_noise((side, side), 60 + seed).convert("RGB").save(target, "PNG", compress_level=0)
    return target.getvalue()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    server = S3()
    yield server
    server.close()


@pytest.fixture
async def front(s3: S3, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    s3.reset()
    s3.bucket("pictures")
    async with Front(s3.port) as front:
        for name, value in front.environ.items():
            monkeypatch.setenv(name, value)
        yield front


class Shop:
    """A replica on a store that can fail, and a provider that counts its sales."""

    def __init__(self, redis: Redis, url: str, storage_url: str, *, drain_s: float = 10.0) -> None:
        self.redis: Any = redis
        self._url = url
        self._storage_url = storage_url
        self._drain_s = drain_s
        self.keys = Keys("pixmill")
        self.provider = ScriptedProvider(self._sell)
        self.tasks = False  # whether it sells by task or at once
        self.replica = self._replica()

    def _replica(self) -> Replica:
        settings = Settings.model_validate(
            {
                "metrics": {"listen": "127.0.0.1:0"},
                "worker": {"drain_timeout": self._drain_s, "lease": 2},
                "storage": {"url": self._storage_url},
            }
        )
        store = ResultStore.open(self._storage_url)
        return Replica(
            settings,
            self._url,
            Routes([Route("default", self.provider, "m", timeout_s=20)]),
            store,
            NO_WEBHOOKS,
        )

    async def _sell(self, request: Request) -> Submitted | Generated:
        self.provider.poll_answers.append(Generated((Picture(png()),)))
        return Submitted("task-1") if self.tasks else Generated((Picture(png()),))

    @property
    def sold(self) -> int:
        return len(self.provider.requests)

    async def submit(self, *idents: str) -> None:
        for ident in idents:
            data = {"id": ident, "prompt": "x", "output": {"thumbnail": False}}
            await self.redis.xadd(self.keys.jobs, {"data": orjson.dumps(data)})

    async def record(self, ident: str) -> dict[str, str]:
        return as_read(await self.redis.hgetall(self.keys.item(f"default//{ident}")))

    async def until(self, ident: str, state: str) -> dict[str, str]:
        async def there() -> dict[str, str] | None:
            record = await self.record(ident)
            return record if record.get("state") == state else None

        found: dict[str, str] = await eventually(there, timeout_s=30)
        return found

    async def until_unready(self, says: str) -> None:
        async def reported() -> bool:
            async with httpx2.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"{self.replica.metrics_url}/readyz")
            return answer.status_code == 503 and says in answer.text

        await eventually(reported, timeout_s=30)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.replica.metrics.registry.get_sample_value(f"pixmill_{name}", labels)

    async def pending(self) -> int:
        """Entries that were claimed and not acknowledged."""
        return int((await self.redis.xpending(self.keys.stream("default", "normal"), "workers"))["pending"])

    async def stored(self, ident: str) -> bytes | None:
        record = await self.record(ident)
        (image,) = orjson.loads(record["result"])["images"]
        return await ResultStore.open(self._storage_url).get(image["key"])


Open = Callable[..., Any]


@pytest.fixture
def shop(redis: Redis, redis_server: RedisServer) -> Open:
    """Opens a shop whose replica runs, and stops it."""

    @asynccontextmanager
    async def open_shop(storage_url: str, *, drain_s: float = 10.0) -> AsyncIterator[Shop]:
        shop = Shop(redis, redis_server.url, storage_url, drain_s=drain_s)
        await shop.replica.start()
        try:
            yield shop
        finally:
            await shop.replica.stop()

    return open_shop


# A store that fails


@pytest.mark.parametrize("fault", ["503", "403", "refused", "cut"])
async def test_nothing_more_is_bought_while_a_paid_picture_waits_for_the_store(
    fault: Fault, front: Front, shop: Open
) -> None:
    async with shop(BUCKET) as here:
        await eventually(lambda: _is_open(here))
        front.about, front.fault = lambda line: line.startswith("PUT") or fault == "refused", fault
        await here.submit("first")
        await here.until_unready("Nothing is claimed: pictures cannot be stored (s3://pictures/shop")
        assert here.metric("storage_failing") == 1
        await here.submit("a", "b", "c")
        await here.until("c", "queued")
        tried = len(front.seen)
        await eventually(lambda: _seen_more(front, tried + 4), timeout_s=30)  # it goes on trying, and probing
        assert (here.sold, await here.pending()) == (1, 1)
        front.fault = "none"
        for ident in ("first", "a", "b", "c"):
            await here.until(ident, "succeeded")
            data = await here.stored(ident)
            assert data is not None
            assert len(data) == len(png())
        assert (here.sold, await here.pending()) == (4, 0)
        assert here.metric("duplicate_results_total") == here.metric("storage_failing") == 0


async def test_a_put_whose_answer_is_lost_finds_its_own_picture(front: Front, shop: Open) -> None:
    async with shop(BUCKET) as here:
        await eventually(lambda: _is_open(here))
        front.about, front.fault = lambda line: "/a.png" in line and _once(front, line), "lost"
        await here.submit("a")
        await here.until("a", "succeeded")
        assert (here.sold, here.metric("duplicate_results_total")) == (1, 0)


async def test_while_one_put_is_slow_the_others_go_on(front: Front, shop: Open) -> None:
    async with shop(BUCKET) as here:
        await eventually(lambda: _is_open(here))
        front.about, front.fault = lambda line: "/slow.png" in line, "stall"
        await here.submit("slow", "a", "b")
        await front.stalled.wait()
        await here.until("a", "succeeded")
        await here.until("b", "succeeded")
        assert (await here.record("slow"))["state"] == "running"
        assert here.metric("persist_seconds_count") == 2
        front.go_on.set()
        await here.until("slow", "succeeded")
        assert (here.sold, here.metric("persist_seconds_count")) == (3, 3)


async def test_the_first_of_two_pictures_of_an_item_stands_and_the_other_is_counted(
    front: Front, shop: Open
) -> None:
    """Another replica stored it during the provider call of this one."""
    async with shop(BUCKET) as here:
        theirs = png(8)

        async def sell_slowly(_: Request) -> Submitted | Generated:
            accepted_s = int((await here.record("a"))["accepted_us"]) / 1e6
            key = object_key("default", _day(accepted_s), None, "a", "png")
            await ResultStore.open(BUCKET).put_image(key, theirs)
            return Generated((Picture(png()),))

        here.provider.answer = sell_slowly
        await here.submit("a")
        record = await here.until("a", "succeeded")
        assert orjson.loads(record["result"])["images"][0]["bytes"] == len(theirs)
        assert await here.stored("a") == theirs
        assert here.metric("duplicate_results_total") == 1


@pytest.mark.parametrize("fault", ["full", "read-only"])
async def test_a_disk_that_takes_no_picture_is_waited_for(fault: str, tmp_path: Path, shop: Open) -> None:
    try:
        disk = SmallDisk(tmp_path / "disk", "40k" if fault == "full" else "8m")
    except OSError:
        pytest.skip("this user may not mount a small disk")
    try:
        async with shop(f"file://{tmp_path}/disk") as here:
            await eventually(lambda: _is_open(here))
            if fault == "read-only":
                disk.remount("ro")
            await here.submit("a")
            says = "The disk is full" if fault == "full" else "The directory cannot be written"
            await here.until_unready(says)
            sold = here.sold  # a picture that does not fit is only noticed when it is there
            await here.submit("b", "c")
            await here.until("c", "queued")
            # A small probe fits on the full disk, so it must be as large as the picture that did not.
            await asyncio.sleep(0.5)
            assert (here.sold, sold) == (1, 1)
            disk.remount("rw,size=8m")
            for ident in ("a", "b", "c"):
                await here.until(ident, "succeeded")
            assert here.sold == 3
    finally:
        disk.close()


async def test_an_item_claimed_before_the_store_failed_goes_back_unbought(
    front: Front, shop: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(BUCKET) as here:
        await eventually(lambda: _is_open(here))
        note_intent = here.replica.queue.note_intent

        async def fails_just_then(item: Claimed) -> Any:
            if item.deliveries == 1:
                front.fault = "503"
                here.replica._gate.failed(StorageError("gone"))
            return await note_intent(item)

        monkeypatch.setattr(here.replica.queue, "note_intent", fails_just_then)
        await here.submit("a")
        await eventually(lambda: _has_kind(here, "job.started"))
        await here.until("a", "queued")
        front.fault = "none"
        record = await here.until("a", "succeeded")
        assert (here.sold, record["deliveries"], record["attempts"]) == (1, "2", "0")


# A store that is missing or forbidden


async def test_nothing_is_bought_before_the_bucket_is_there(front: Front, s3: S3, shop: Open) -> None:
    async with shop("s3://misspelt/shop") as here:
        await here.submit("a")
        await here.until_unready("There is no such bucket: check storage.url.")
        await here.until("a", "queued")
        assert here.sold == 0
        s3.bucket("misspelt")
        await here.until("a", "succeeded")


async def test_nothing_is_bought_before_the_stores_credential_is_right(front: Front, shop: Open) -> None:
    front.fault = "403"
    async with shop(BUCKET) as here:
        await here.submit("a")
        await here.until_unready("Check the store's credential and what it may do.")
        await here.until("a", "queued")
        assert here.sold == 0
        assert "planted" not in here.replica.readiness()[1].lower()


async def test_a_missing_bucket_is_not_taken_for_a_missing_picture(front: Front) -> None:
    with pytest.raises(StorageError, match="no such bucket"):
        await ResultStore.open("s3://misspelt/shop").get("a.png")
    assert await ResultStore.open(BUCKET).get("a.png") is None


async def test_a_missing_picture_is_found_missing_by_a_credential_that_may_not_list(front: Front) -> None:
    front.fault, front.about = "403", lambda line: line.startswith("GET") and "a.png" in line
    assert await ResultStore.open(BUCKET).get("a.png") is None


async def test_a_credential_that_may_not_read_is_not_taken_for_a_missing_picture(front: Front) -> None:
    front.fault, front.about = "403", lambda line: line.startswith("GET")
    with pytest.raises(StorageError, match="Check the store's credential"):
        await ResultStore.open(BUCKET).get("a.png")


# A replica that has to stop


async def test_a_picture_without_a_task_is_held_when_its_replica_has_to_stop(
    front: Front, shop: Open
) -> None:
    async with shop(BUCKET, drain_s=0.2) as here:
        await eventually(lambda: _is_open(here))
        front.about, front.fault = lambda line: line.startswith("PUT"), "503"
        await here.submit("a")
        await here.until_unready("pictures cannot be stored")
    record = await here.record("a")
    error = orjson.loads(record["error"])
    assert (record["state"], record["calls_yes"], here.replica.left) == ("held", "1", 0)
    assert (error["kind"], error["charged"]) == ("storage", "yes")
    assert "a retry buys it a second time" in error["message"]


async def test_a_picture_with_a_task_is_stored_by_the_next_replica_and_paid_once(
    front: Front, shop: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.worker.retry_policy.STORE_AGAIN_S", 0.1)
    async with shop(BUCKET, drain_s=0.2) as here:
        here.tasks = True
        here.provider.plan = here.provider.plan.__class__(0.01, 1.0, 0.01)
        await eventually(lambda: _is_open(here))
        front.about, front.fault = lambda line: line.startswith("PUT"), "503"
        await here.submit("a")
        await here.until_unready("pictures cannot be stored")
    record = await here.record("a")
    assert (record["state"], record["attempts"], record["calls_yes"]) == ("throttled", "0", "1")
    assert orjson.loads(record["receipt"])["task_id"] == "task-1"
    front.fault = "none"
    async with shop(BUCKET) as there:
        there.provider.poll_answers = [Generated((Picture(png()),))]
        record = await there.until("a", "succeeded")
    assert (here.sold, there.sold, record["calls_yes"]) == (1, 0, "1")


async def test_a_task_whose_replica_cannot_store_is_left_to_the_others_after_a_while(
    front: Front, shop: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "STORE_PATIENCE_S", 0.2)
    async with shop(BUCKET) as here:
        here.tasks = True
        here.provider.plan = here.provider.plan.__class__(0.01, 1.0, 0.01)
        await eventually(lambda: _is_open(here))
        front.about, front.fault = lambda line: line.startswith("PUT"), "503"
        await here.submit("a")
        record = await here.until("a", "throttled")
        assert "its task is polled again, and nothing is paid twice" in record["error"]
        assert (here.sold, record["attempts"]) == (1, "0")
        assert await here.pending() == 0


# A put that is cut off


async def test_a_killed_put_leaves_nothing_that_could_be_taken_for_a_picture(front: Front) -> None:
    front.about, front.fault = lambda line: line.startswith("PUT"), "stall"
    process = await _child("put", BUCKET, "a.png", front.environ)
    await front.stalled.wait()
    process.kill()
    await process.wait()
    front.fault = "none"
    assert await ResultStore.open(BUCKET).get("a.png") is None


async def test_a_killed_local_put_leaves_nothing_or_all_of_it(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/images"
    process = await _child("put-large", url, "a.png", {})
    await eventually(lambda: _any_file(tmp_path / "images"), timeout_s=45)
    process.kill()
    await process.wait()
    found = await ResultStore.open(url).get("a.png")
    assert found is None or len(found) == LARGE


async def test_a_file_that_is_cut_off_by_a_limit_is_no_picture(tmp_path: Path) -> None:
    """RLIMIT_FSIZE cuts a write off, as a quota on the disk would."""
    url = f"file://{tmp_path}/images"
    process = await _child("put-limited", url, "a.png", {})
    out, _ = await process.communicate()
    assert "File too large" in out.decode()
    assert await ResultStore.open(url).get("a.png") is None
    assert [path for path in (tmp_path / "images").rglob("*") if path.is_file()] == []


async def test_a_process_may_end_right_after_its_last_put(front: Front) -> None:
    """obstore can abort an interpreter that exits while its threads still end."""
    process = await _child("put", BUCKET, "a.png", front.environ)
    out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"stored\n")


LARGE = 96 * 1024 * 1024
CHILD = f"""
import asyncio, resource, signal, sys
from daemon.storage.object_store import ResultStore, StorageError
how, url, key = sys.argv[1:]
size = {{"put": 75_000, "put-large": {LARGE}, "put-limited": 100_000}}[how]
if how == "put-limited":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
async def main():
    store = ResultStore.open(url)
    try:
        await store.put_image(key, bytes(size))
        print("stored")
    except StorageError as error:
        print(error)
    await store.aclose()
asyncio.run(main())
"""


async def _child(how: str, url: str, key: str, environ: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        how,
        url,
        key,
        env={**os.environ, **environ},
        cwd=Path(__file__).parents[3],
        stdout=asyncio.subprocess.PIPE,
    )


async def _seen_more(front: Front, count: int) -> bool:
    return len(front.seen) >= count


async def _is_open(shop: Shop) -> bool:
    return not shop.replica._gate.closed


async def _has_kind(shop: Shop, kind: str) -> bool:
    rows = await shop.redis.xrange(shop.keys.events)
    return kind.encode() in [fields[b"type"] for _, fields in rows]


async def _any_file(directory: Path) -> bool:
    return any(names for _, _, names in os.walk(directory))


def _once(front: Front, line: str) -> bool:
    return front.seen.count(line) == 1 and line.startswith("PUT")


def _day(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d")
