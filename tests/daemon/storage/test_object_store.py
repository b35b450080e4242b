"""Pictures in the object store: each exists once and on the disk, and the error of a broken store is a sentence."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError

from daemon.storage.object_store import TRIES, ResultStore, StorageError, Stored, object_key

KEY = "default/20261122/b1/sku-1.png"
SIGNED = "https://bucket.example/sku-1.png?X-Amz-Credential=AKIAPLANTED&X-Amz-Signature=planted-signature"


def fd_path(descriptor: int) -> str:
    """The path that an open file has."""
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def local(directory: Path) -> ResultStore:
    return ResultStore.open(f"file://{directory}")


def memory() -> ResultStore:
    return ResultStore.open("memory://")


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ResultStore:
    return local(tmp_path / "images") if request.param == "local" else memory()


class Failing:
    """Replaces obstore's put: fails `times` (with `late`, after the write), then works."""

    def __init__(self, times: int, *, late: bool = False, message: str = "the bucket is on fire") -> None:
        self.calls = 0
        self._times = times
        self._late = late
        self._message = message
        self._put = obstore.put_async

    async def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        failing = self.calls <= self._times
        answer = None if failing and not self._late else await self._put(*arguments, **named)
        if failing:
            raise GenericError(f"{self._message}\n\nDebug source:\nplanted-debug-details")
        return answer


Fail = Callable[..., Failing]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    def put_in_front(*arguments: Any, **named: Any) -> Failing:
        failing = Failing(*arguments, **named)
        monkeypatch.setattr(obstore, "put_async", failing)
        return failing

    return put_in_front


def test_a_key_names_tenant_day_batch_and_item() -> None:
    assert object_key("shop", "20261122", "b1", "sku-1.2", "jpg") == "shop/20261122/b1/sku-1.2.jpg"
    assert object_key("shop", "20261122", None, "sku-1", "png") == "shop/20261122/single/sku-1.png"


# Written once


async def test_the_first_picture_under_a_key_stands(store: ResultStore) -> None:
    assert await store.put_image(KEY, b"first") == Stored(KEY, created=True)
    assert await store.put_image(KEY, b"second") == Stored(KEY, created=False)
    assert await store.get(KEY) == b"first"


async def test_of_many_that_store_at_once_exactly_one_has_created_it(store: ResultStore) -> None:
    answers = await asyncio.gather(*(store.put_image(KEY, b"%d" % number) for number in range(16)))
    assert sum(answer.created for answer in answers) == 1
    winner = next(number for number, answer in enumerate(answers) if answer.created)
    assert await store.get(KEY) == b"%d" % winner


async def test_a_missing_object_is_none(store: ResultStore) -> None:
    assert await store.get(KEY) is None


async def test_a_local_picture_and_every_directory_above_it_are_brought_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(fd_path(descriptor)))
    store = local(tmp_path)
    await store.put_image(KEY, b"picture")
    path = tmp_path / KEY
    assert set(synced) == {str(place) for place in [path, *path.parents] if place.is_relative_to(tmp_path)}


async def test_a_picture_that_an_earlier_run_left_in_the_cache_is_synced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await local(tmp_path).put_image(KEY, b"picture")
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(fd_path(descriptor)))
    await local(tmp_path).put_image(KEY, b"picture")
    assert str(tmp_path / KEY) in synced


# A store that fails


async def test_a_put_that_fails_is_tried_again(store: ResultStore, fail: Fail) -> None:
    failing = fail(TRIES - 1)
    assert (await store.put_image(KEY, b"picture")).created
    assert failing.calls == TRIES
    assert await store.get(KEY) == b"picture"


async def test_a_put_whose_answer_was_lost_finds_its_own_picture(store: ResultStore, fail: Fail) -> None:
    fail(1, late=True)
    assert await store.put_image(KEY, b"picture") == Stored(KEY, created=False)
    assert await store.get(KEY) == b"picture"


async def test_a_put_that_keeps_failing_is_a_sentence_that_names_the_store(fail: Fail) -> None:
    failing = fail(TRIES)
    with pytest.raises(StorageError) as caught:
        await memory().put_image(KEY, b"picture")
    assert failing.calls == TRIES
    assert str(caught.value) == "memory:: the bucket is on fire"


async def test_no_credential_is_in_the_sentence(fail: Fail) -> None:
    fail(TRIES, message=f"PUT {SIGNED} failed")
    store = ResultStore(obstore.store.MemoryStore(), "s3://reader:planted-secret@bucket/x")
    with pytest.raises(StorageError) as caught:
        await store.put_image(KEY, b"picture")
    assert "planted" not in str(caught.value).lower()
    assert str(caught.value).startswith("s3://reader:***@bucket/x: PUT https://bucket.example/")


async def test_a_put_that_is_cancelled_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    began = asyncio.Event()
    calls = 0

    async def hang(*_: Any, **__: Any) -> None:
        nonlocal calls
        calls += 1
        began.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(obstore, "put_async", hang)
    task = asyncio.create_task(memory().put_image(KEY, b"picture"))
    await began.wait()
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert calls == 1


async def test_a_get_that_keeps_failing_is_a_sentence_and_not_a_missing_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise GenericError("no route to host")

    monkeypatch.setattr(obstore, "get_async", fails)
    with pytest.raises(StorageError, match="no route to host"):
        await memory().get(KEY)


# Opening and checking


async def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    await local(tmp_path).check()
    assert [path.name for path in tmp_path.iterdir()] == []  # noqa: ASYNC240 - an empty local directory


async def test_a_store_that_gives_back_something_else_fails_its_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = memory()

    async def nothing(_key: str) -> None:
        return None

    monkeypatch.setattr(store, "_read", nothing)
    with pytest.raises(StorageError, match="did not give back what was written"):
        await store.check()


def test_a_directory_is_made_and_addresses_are_under_it(tmp_path: Path) -> None:
    directory = tmp_path / "with space" / "images"
    store = ResultStore.open(f"file://{tmp_path}/with%20space/images/")
    assert directory.is_dir()
    assert store.url_for(KEY) == f"file://{tmp_path}/with%20space/images/{KEY}"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file:images", "must be absolute"),
        ("file://images/here", "write file:///images/here"),
        ("ftp://bucket/x", "cannot be used"),
        ("s3://", "cannot be used"),
    ],
)
def test_the_error_of_an_impossible_url_is_a_sentence(
    url: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=says):
        ResultStore.open(url)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_directory_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("not a directory")
    with pytest.raises(StorageError, match="cannot be used"):
        local(tmp_path / "images")


def test_a_link_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a link away")
    (tmp_path / "theirs").mkdir()
    link = tmp_path / "images"
    link.symlink_to(tmp_path / "theirs")
    os.lchown(link, 65534, 65534)
    with pytest.raises(StorageError, match="belongs to another user"):
        local(link)


async def test_closing_is_possible_before_and_after_use(store: ResultStore) -> None:
    await store.aclose()
    await store.put_image(KEY, b"picture")
    await store.aclose()


async def test_a_store_without_a_put_that_only_creates_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = b"<Error><Code>NotImplemented</Code><Message>A header is not implemented.</Message></Error>"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status, body = (
            (b"501 Not Implemented", refusal) if b"if-none-match" in head.lower() else (b"200 OK", b"")
        )
        writer.write(
            b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
        )
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "r",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError) as caught:
        await ResultStore.open("s3://pics/p").check()
    server.close()
    assert "refuses a PUT that only creates" in str(caught.value)
    assert "MinIO" in str(caught.value)
    assert "<" not in str(caught.value)


@pytest.mark.parametrize("by", ["proxy", "direct"])
async def test_the_store_leaves_by_the_proxy_of_the_environment_as_well(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client reads the variables itself, so this shows that it follows the same ones as calls."""
    asked: list[str] = []

    async def hop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().partition(" HTTP/")[0])
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hop, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    host = "store.example" if by == "proxy" else f"localhost:{port}"
    environ = {
        "ENDPOINT_URL": f"http://{host}",
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "s",
        "REGION": "r",
    }
    for name, value in environ.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port if by == 'proxy' else 9}")
    if by == "direct":
        monkeypatch.setenv("NO_PROXY", "localhost")
    with pytest.raises(StorageError):
        await ResultStore.open("s3://pics/p").put_image("a.png", b"x")
    server.close()
    assert asked[0] == f"PUT {'http://store.example' if by == 'proxy' else ''}/pics/p/a.png"
