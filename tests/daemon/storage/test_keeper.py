"""A picture is the item's if it is not older than the item, also while the store is slow and its clock is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daemon.storage.imaging import thumbnail
from daemon.storage.keeper import PictureKeeper, thumb_key
from daemon.storage.object_store import ResultStore
from daemon.telemetry.metrics import Metrics
from pixmill.contract import Job
from pixmill.records.keys import Uid
from tests.daemon.storage.test_gate import png

START = datetime(2026, 1, 1, tzinfo=UTC)
BEHIND = timedelta(seconds=30)
JOB = Job.from_spec(b'{"id":"a","prompt":"x","output":{"thumbnail":false}}')


class World:
    """One time for Redis, the store (its clock is behind) and the daemon, which passes only while the store is probed.

    `away_s` passes before the probe is written, `slow_s` after it; both only at the first probe.
    """

    def __init__(self, *, age_s: float, away_s: float = 0, slow_s: float = 0) -> None:
        self.now_s = 0.0
        self.probes = 0
        self._age_s, self._away_s, self._slow_s = age_s, away_s, slow_s
        gate: Any = SimpleNamespace(patiently=self._patiently)
        store: Any = SimpleNamespace(check=self._check, get_dated=self._get_dated, url_for=str)
        self.keeper = PictureKeeper(store, gate, Metrics(), self._now_us, clock=lambda: self.now_s)

    async def finds(self) -> bool:
        """Whether the object, which is `age_s` older than the item, is the item's picture."""
        place = (Uid.parse("default//a"), START, START)
        return await self.keeper.find(place, JOB) is not None

    async def _patiently(self, call: Callable[[], Awaitable[Any]], _size: int = 0) -> Any:
        return await call()

    async def _get_dated(self, _key: str) -> tuple[bytes, datetime]:
        return png(), START - timedelta(seconds=self._age_s) - BEHIND

    async def _check(self) -> datetime:
        self.probes += 1
        first = self.probes == 1
        self.now_s += self._away_s if first else 0
        written = START + timedelta(seconds=self.now_s) - BEHIND
        await asyncio.sleep(0)
        self.now_s += self._slow_s if first else 0
        return written

    async def _now_us(self) -> int:
        return round((START + timedelta(seconds=self.now_s)).timestamp() * 1e6)


async def test_a_good_picture_is_found_though_the_store_was_away_meanwhile() -> None:
    assert await World(age_s=0, away_s=60).finds()


async def test_older_work_is_not_taken_for_this_ones_after_a_slow_probe() -> None:
    assert not await World(age_s=60, slow_s=120).finds()


async def test_many_pictures_share_one_comparison() -> None:
    world = World(age_s=0)
    assert all(await asyncio.gather(*(world.finds() for _ in range(5))))
    assert world.probes == 1


@pytest.mark.parametrize(("age_s", "found"), [(0, True), (60, False)])
async def test_the_clock_of_the_store_does_not_decide(age_s: float, found: bool) -> None:
    assert await World(age_s=age_s).finds() is found


# Thumbnails

PLACE = (Uid.parse("default//a"), START, START)
SMALL = Job.from_spec(b'{"id":"a","prompt":"x"}')


class Shelf:
    """A keeper with a store in memory, and a gate that is open."""

    def __init__(self) -> None:
        self.store = ResultStore.open("memory://")
        self.keeper = PictureKeeper(self.store, cast("Any", self), Metrics(), self._now_us)

    async def patiently(self, call: Callable[[], Awaitable[Any]], _size: int = 0) -> Any:
        return await call()

    async def storing(self, step: Awaitable[Any], *, patience_s: float | None) -> Any:
        return await step

    async def _now_us(self) -> int:
        return round(START.timestamp() * 1e6)


async def test_the_thumbnail_is_that_of_the_picture_that_stands() -> None:
    shelf, first = Shelf(), png()
    await shelf.keeper.keep(PLACE, JOB, first, seed=None)
    image = await shelf.keeper.keep(PLACE, SMALL, png(), seed=None)
    assert await shelf.store.get(image["key"]) == first
    assert await shelf.store.get(thumb_key(image["key"])) == thumbnail(first)


async def test_a_picture_that_is_found_gets_the_thumbnail_that_it_lacks() -> None:
    shelf, data = Shelf(), png()
    await shelf.keeper.keep(PLACE, JOB, data, seed=None)
    image = await shelf.keeper.find(PLACE, SMALL)
    assert image is not None
    assert await shelf.store.get(thumb_key(image["key"])) == thumbnail(data)


async def test_a_picture_whose_thumbnail_cannot_be_made_is_kept_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lacks(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.Image.Image.thumbnail", lacks)
    shelf, data = Shelf(), png()
    image = await shelf.keeper.keep(PLACE, SMALL, data, seed=None)
    assert image["thumb_url"] is None
    assert await shelf.store.get(image["key"]) == data
    assert not await shelf.store.exists(thumb_key(image["key"]))
