"""Stores a provider's picture once: checked, in the job's format if it names one, under the key of its item.

The object store's create-only put makes a picture exist exactly once, whichever replica runs the item again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

import structlog
from redis.exceptions import RedisError

from daemon.storage.gate import StorageGate
from daemon.storage.imaging import (
    EXTENSIONS,
    BadImage,
    Checked,
    decoded_bytes,
    in_format,
    in_picture_thread,
)
from daemon.storage.object_store import ResultStore, StorageError, object_key
from daemon.telemetry.metrics import Metrics
from pixmill.contract import Job
from pixmill.records.keys import Uid
from providers.errors import ErrorKind, ProviderError
from providers.http.room import holding

log = structlog.get_logger(__name__)

# Redis dates the acceptance and the store dates the object. Their clocks are compared before an object counts as too
# old. This much remains: a store may count whole seconds, and a clock may be set in between.
CLOCKS_APART = timedelta(seconds=5)
COMPARED_FOR_S = 60.0
QUICK_S = 1.0  # a comparison that took longer is repeated
MOST_COMPARISONS = 3

# An item's name and the time of its acceptance, of which its key is made, and the time of its entry. Both times are the
# same for most; after a loss of Redis an entry may be accepted again, when its picture is there already.
Place = tuple[Uid, datetime, datetime]


class PictureKeeper:
    """Puts pictures into the store and finds those that an earlier run put there.

    `now_us` reads the clock of Redis; `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        store: ResultStore,
        gate: StorageGate,
        metrics: Metrics,
        now_us: Callable[[], Awaitable[int]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._gate = gate
        self._metrics = metrics
        self._now_us = now_us
        self._clock = clock
        self._comparing = asyncio.Lock()
        self._behind = timedelta(0)  # how far the store's clock is behind that of Redis
        self._compared_at = -inf  # monotonic

    async def find(self, place: Place, job: Job) -> dict[str, Any] | None:
        """The stored picture of an item, as its record describes it; None when there is none."""
        # Without a wished format, the key has the ending of what the provider delivered.
        wished = job.output.format
        kinds = EXTENSIONS if wished is None else (wished,)
        for key in (_key(place, kind, day) for day in _days(place) for kind in kinds):
            if (found := await self._readable(key, place, job)) is not None:
                return await self._described(key, found, job, seed=None)
        return None

    async def keep(
        self, place: Place, job: Job, data: bytes, *, seed: int | None, patience_s: float | None = None
    ) -> dict[str, Any]:
        """Store a picture and its thumbnail; the first one stored stands.

        The picture is paid for, so it waits in memory while the store is away or this machine lacks descriptors or
        memory. Raises NotStored after `patience_s` (None: never) or when the replica has to stop, and ProviderError
        when the bytes are not a picture.
        """
        wished = job.output
        checking = self._gate.patiently(
            lambda: _checked(data, wished.format, wished.quality, wished.thumbnail)
        )
        checked = await self._gate.storing(checking, patience_s=patience_s)
        if isinstance(checked, str):
            raise ProviderError(ErrorKind.BAD_RESPONSE, f"The provider's picture cannot be used: {checked}")
        key = _key(place, checked.facts.format, place[1])
        stands = await self._gate.storing(self._first(key, place, job, checked), patience_s=patience_s)
        return await self._described(key, stands, job, seed=seed)

    async def copy(self, place: Place, job: Job, image: dict[str, Any]) -> dict[str, Any] | None:
        """Store a copy of another item's picture for this item; None if that picture is gone or changed.

        Raises NotStored when the replica has to stop.
        """
        reading = self._gate.patiently(lambda: self._store.get(image["key"]))
        data = await self._gate.storing(reading, patience_s=None)
        if data is None or (await asyncio.to_thread(hashlib.sha256, data)).hexdigest() != image["sha256"]:
            log.warning("a picture of the cache has gone or changed and is made again", key=image["key"])
            return None
        return await self.keep(place, job, data, seed=image["seed"])

    async def _first(self, key: str, place: Place, job: Job, ours: Checked) -> Checked:
        """Write a picture unless its key has one; returns the picture that stands."""
        data = ours.data
        stored = await self._gate.patiently(lambda: self._store.put_image(key, data), len(data))
        if stored.created:
            return ours
        existing = await self._readable(key, place, job)
        if existing is None:
            await self._gate.patiently(lambda: self._store.replace(key, data), len(data))
            return ours
        if existing.data != data:  # equal bytes are our own, from a put whose reply was lost
            log.warning("another picture of this item was stored before; it stands", key=key)
            self._metrics.duplicate_results.inc()
        return existing

    async def _readable(self, key: str, place: Place, job: Job) -> Checked | None:
        """The stored picture of this item; None if there is none, or only a file that a power cut damaged.

        An object older than the item's entry belongs to older work of the same name, whose record is gone.
        """
        found = await self._gate.patiently(lambda: self._store.get_dated(key))
        if found is None:
            return None
        data, written = found
        since = place[2] - CLOCKS_APART
        if written < since and written + await self._clock_behind() < since:
            return None
        checked = await self._gate.patiently(lambda: _checked(data, None, None, job.output.thumbnail))
        if isinstance(checked, str):
            log.warning("a stored picture is damaged and is made again", key=key, error=checked)
            return None
        return checked

    async def _clock_behind(self) -> timedelta:
        """How far the store's clock is behind that of Redis, measured once a minute.

        A picture may wait for this, so a Redis that does not answer leaves the last measurement in force.
        """
        async with self._comparing:
            if self._clock() - self._compared_at > COMPARED_FOR_S:
                try:
                    self._behind = await self._compared()
                    self._compared_at = self._clock()
                except RedisError as error:
                    log.warning("could not compare the clocks of Redis and the store", error=str(error))
        return self._behind

    async def _compared(self) -> timedelta:
        """How far the store's clock is behind, or more after a slow comparison: that keeps a good picture."""
        behind = timedelta.max
        for _ in range(MOST_COMPARISONS):
            began = self._clock()
            written = await self._gate.patiently(self._store.check)
            # Redis is second, since the store may have been away: too small a difference would buy a picture again.
            now = datetime.fromtimestamp(await self._now_us() / 1e6, UTC)
            behind = min(behind, now - written)
            if self._clock() - began <= QUICK_S:
                break
        return behind

    async def _described(self, key: str, picture: Checked, job: Job, *, seed: int | None) -> dict[str, Any]:
        facts = picture.facts
        return {
            "key": key,
            "url": self._store.url_for(key),
            "thumb_url": await self._thumbnail(key, picture.thumbnail),
            "width": facts.width,
            "height": facts.height,
            "bytes": facts.bytes,
            "sha256": facts.sha256,
            "content_type": facts.content_type,
            "seed": seed if seed is not None else job.seed,
        }

    async def _thumbnail(self, key: str, small: bytes | str | None) -> str | None:
        """Store a thumbnail, if one was made; returns its address."""
        if small is None:
            return None
        small_key = thumb_key(key)
        # Best effort: only the picture was paid for, and a thumbnail can be made from it again.
        try:
            if isinstance(small, bytes):
                await self._store.put_image(small_key, small)
                return self._store.url_for(small_key)
            why = small
        except (StorageError, OSError, MemoryError) as error:
            why = str(error)
        log.warning("no thumbnail", key=small_key, error=why)
        return None


def possible_keys(uid: Uid, accepted: datetime) -> list[str]:
    """The keys that a picture of an item may have; none of them is any other item's."""
    place = (uid, accepted, accepted)
    return [_key(place, image_format, accepted) for image_format in EXTENSIONS]


def thumb_key(key: str) -> str:
    """The key of a picture's thumbnail. Ids have no `~`, so this is never the key of another item's picture."""
    return f"{key.rsplit('.', 1)[0]}~thumb.webp"


async def _checked(
    data: bytes, output_format: str | None, quality: int | None, with_thumbnail: bool
) -> Checked | str:
    """The picture in this format, or what is wrong with it; its pixels have their room first."""
    async with holding(await in_picture_thread(decoded_bytes, data)):
        return await in_picture_thread(_in_format, data, output_format, quality, with_thumbnail)


def _in_format(
    data: bytes, output_format: str | None, quality: int | None, with_thumbnail: bool
) -> Checked | str:
    try:
        return in_format(data, output_format, quality, with_thumbnail=with_thumbnail)
    except BadImage as error:
        return str(error)  # the error's traceback would hold a large picture until the collector runs


def _days(place: Place) -> list[datetime]:
    """The times of whose days a picture of this item may have its key.

    After a loss across midnight the entry is accepted again, and its picture has the day of the first acceptance. That
    came soon after the entry, as a rule; an item whose entry waited over midnight, too, is not found.
    """
    _, accepted, sent = place
    return [accepted] if sent.date() == accepted.date() else [accepted, sent]


def _key(place: Place, image_format: str, day: datetime) -> str:
    uid = place[0]
    return object_key(
        uid.tenant, day.strftime("%Y%m%d"), uid.batch or None, uid.item, EXTENSIONS[image_format]
    )
