"""results: pictures as files with safe names, a manifest, and a report of missing pictures."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from daemon.files.archive import pictures_of, safe_name
from daemon.storage.object_store import ResultStore
from pixmill.client import Client
from pixmill.records.records import ItemView
from tests.daemon.cli.conftest import Pixmill
from tests.daemon.harness import Installation
from tests.daemon.live import image_key, made, picture, refused
from tests.servers import RedisServer


@pytest.fixture
async def batch(redis: Redis, storage: str) -> Installation:
    """b1: a and c:1 have pictures in the store, b failed."""
    installation = Installation(redis)
    items = [{"id": ident, "prompt": "x"} for ident in ("a", "b", "c:1")]
    await installation.submit({"id": "b1", "items": items}, type="pixmill.batch.v1")
    store = ResultStore.open(storage)
    for item in await installation.claim(3):
        if item.uid.endswith("/b"):
            await installation.queue.settle(item, refused())
        else:
            await store.put_image(image_key(item), picture(item))
            await installation.queue.settle(item, made(item))
    await store.aclose()
    return installation


async def test_pictures_are_saved_with_a_manifest(
    pixmill: Pixmill, batch: Installation, tmp_path: Path
) -> None:
    ran = await pixmill("results", "b1", "--out", "pictures")
    assert (ran.code, ran.out) == (3, "")
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "a.png",
        "c_1.png",
        "manifest.json",
    ]
    assert (tmp_path / "pictures/c_1.png").read_bytes() == b"picture of default/b1/c:1"
    manifest = json.loads((tmp_path / "pictures/manifest.json").read_text())
    assert (manifest["batch"], manifest["state"]) == ("b1", "completed_with_errors")
    rows = {row["item"]: row for row in manifest["items"]}
    assert [rows[item]["files"] for item in ("a", "b", "c:1")] == [["a.png"], [], ["c_1.png"]]
    assert rows["b"]["error"]["message"] == "The provider refuses this prompt."
    assert rows["a"]["prompt"] == "x"


async def test_a_zip_holds_the_same(pixmill: Pixmill, batch: Installation, tmp_path: Path) -> None:
    ran = await pixmill("results", "b1", "--zip", "b1.zip", "--json")
    assert ran.code == 3
    assert ran.document["saved"] == {"files": 2, "problems": []}
    with zipfile.ZipFile(tmp_path / "b1.zip") as archive:
        assert sorted(archive.namelist()) == ["a.png", "c_1.png", "manifest.json"]
        assert archive.read("a.png") == b"picture of default/b1/a"
    assert "b1.zip" in _names(tmp_path)
    assert not [name for name in _names(tmp_path) if name.startswith(".")]


async def test_a_planted_link_is_never_written_through(
    pixmill: Pixmill, batch: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each name that a part could have is a link to a file of the user's.
    monkeypatch.setattr("daemon.files.archive.secrets.token_hex", lambda _: "guessed")
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "pictures").mkdir()
    for guess in ("part", "guessed.part"):
        for name in ("a.png", "c_1.png", "manifest.json"):
            (tmp_path / "pictures" / f".{name}.{guess}").symlink_to(mine)
        (tmp_path / f".autumn.zip.{guess}").symlink_to(mine)
    assert (await pixmill("results", "b1", "--out", "pictures")).code == 2
    assert (await pixmill("results", "b1", "--zip", "autumn.zip")).code == 2
    monkeypatch.undo()
    assert (await pixmill("results", "b1", "--out", str(tmp_path / "pictures"))).code == 3
    assert (await pixmill("results", "b1", "--zip", str(tmp_path / "autumn.zip"))).code == 3
    assert mine.read_text() == "mine"
    assert not (tmp_path / "pictures/a.png").is_symlink()


async def test_a_saved_file_has_the_rights_that_the_user_wants(
    pixmill: Pixmill, batch: Installation, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    await pixmill("results", "b1", "--out", "pictures")
    assert (tmp_path / "pictures/a.png").stat().st_mode == plain.stat().st_mode
    assert not [path for path in (tmp_path / "pictures").iterdir() if path.name.endswith(".part")]


async def test_saving_again_fetches_only_missing_pictures(
    pixmill: Pixmill, batch: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pixmill("results", "b1", "--out", "pictures")
    (tmp_path / "pictures/a.png").write_bytes(b"half a pic")
    fetched: list[str] = []
    get = ResultStore.get

    async def seen(self: ResultStore, key: str) -> bytes | None:
        fetched.append(key)
        return await get(self, key)

    monkeypatch.setattr(ResultStore, "get", seen)
    await pixmill("results", "b1", "--out", "pictures")
    assert fetched == ["default/20261122/b1/a.png"]
    assert (tmp_path / "pictures/a.png").read_bytes() == b"picture of default/b1/a"


async def test_a_picture_that_the_store_lacks_is_reported(
    pixmill: Pixmill, batch: Installation, tmp_path: Path
) -> None:
    (tmp_path / "store/default/20261122/b1/a.png").unlink()
    (tmp_path / "store/default/20261122/b1/c:1.png").write_bytes(b"something else")
    ran = await pixmill("results", "b1", "--out", "pictures")
    assert ran.code == 3
    assert 'a: there is no object "default/20261122/b1/a.png" in this store' in ran.err
    assert "c:1: the object" in ran.err
    assert "sha256 differs" in ran.err
    one = await pixmill("results", "b1/a", "--out", "one")
    assert one.code == 4
    assert _names(tmp_path / "pictures") == ["manifest.json"]


async def test_out_after_watching_saves_too(pixmill: Pixmill, batch: Installation, tmp_path: Path) -> None:
    ran = await pixmill("watch", "b1", "--out", "pictures", "--json")
    assert ran.code == 3
    assert ran.document["saved"]["files"] == 2
    assert (tmp_path / "pictures/a.png").exists()


async def test_results_needs_exactly_one_place(pixmill: Pixmill) -> None:
    for args in ((), ("--out", "x", "--zip", "y.zip")):
        ran = await pixmill("results", "b1", *args)
        assert (ran.code, ran.err) == (2, "Name the place for the pictures: --out DIR or --zip FILE.\n")


@given(st.text(max_size=300))
def test_a_safe_name_is_one_part_of_a_path_everywhere(text: str) -> None:
    name = safe_name(text)
    assert name
    assert not set(name) & set('/\\:*?"<>|\0\n')
    assert name not in (".", "..")
    assert not name.endswith((".", " "))
    assert len(name.encode("utf-8", "replace")) <= 121
    assert name.split(".")[0].upper() not in ("CON", "NUL", "COM1")


async def test_names_that_differ_only_in_case_stay_apart(
    batch: Installation, redis_server: RedisServer, storage: str
) -> None:
    async with Client.connect(redis_server.url) as client:
        item = (await client.items("b1"))[0]
    items = [_named(item, name) for name in ("Cup", "cup", "CUP", "manifest")]
    assert [picture.file for picture in pictures_of(items)] == [
        "Cup.png",
        "cup-2.png",
        "CUP-3.png",
        "manifest.png",
    ]


def _named(item: ItemView, name: str) -> ItemView:
    changes: dict[str, Any] = {"uid": item.uid._replace(item=name)}
    return replace(item, **changes)


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
