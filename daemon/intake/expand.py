"""Turns jobs and batches into items: one item is one provider call that makes one picture.

Pure functions from the contract's models to the items that `accept.lua` stores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime

import orjson

from daemon.accounts.routes import Route
from daemon.contract import Batch, Job, fingerprint_content, pixel_fingerprint
from daemon.queue.keys import Uid
from daemon.queue.messages import NewItem

CLOUD_EVENT_FIELDS = (b"source", b"time", b"traceparent")


def cloud_event(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """The CloudEvents attributes of an entry that are kept and echoed."""
    return {
        name.decode(): fields[name][:512].decode("utf-8", "replace")
        for name in CLOUD_EVENT_FIELDS
        if name in fields
    }


def head_of(
    tenant: str,
    job: str,
    item: str,
    batch: str | None = None,
    metadata: Mapping[str, str] | None = None,
    origin: Mapping[str, str] | None = None,
) -> str:
    """The identity that every event of an item begins with: the inside of a JSON object."""
    head: dict[str, object] = {"tenant": tenant, "job": job, "item": item, "batch": batch}
    more = {"metadata": metadata, "cloudevent": origin}
    return orjson.dumps(head | {name: value for name, value in more.items() if value}).decode()[1:-1]


def single_item(job: Job, routes: Mapping[str, Route], entry: str, origin: Mapping[str, str]) -> NewItem:
    """The item of a job of one picture that belongs to no batch."""
    item = _item(job, Uid(job.tenant, "", job.id), job.id, origin, fingerprint_content(job))
    return item._replace(entry=entry, cache=cache_mark(job, routes[job.route]))


def cache_mark(job: Job, route: Route, k: int = 0) -> str:
    """The cache mode and the pixel fingerprint of picture k; empty if the picture does not use the cache.

    An input without a sha256 cannot be compared, because it is fetched only right before the call.
    """
    hashes = [image.sha256 for image in job.inputs or () if image.sha256 is not None]
    if job.cache == "off" or len(hashes) < len(job.inputs or ()):
        return ""
    return f"{job.cache} {pixel_fingerprint(job, route.provider.name, route.model, hashes, k)}"


def pictures_of(
    job: Job, routes: Mapping[str, Route], gid: str, batch: str, part: str, origin: Mapping[str, str]
) -> list[NewItem]:
    """The items of a job in a group: itself, or picture k of n under `{id}.{k}` with seed + k."""
    fingerprint = fingerprint_content(job)
    items = []
    for k, picture in enumerate(_pictures(job)):
        item = _item(picture, Uid(job.tenant, batch, picture.id), job.id, origin, f"{fingerprint}.{k}")
        items.append(item._replace(gid=gid, part=part, cache=cache_mark(job, routes[job.route], k)))
    return items


def batch_fingerprint(batch: Batch, jobs: Iterable[Job]) -> str:
    """A digest that is equal for two entries if they are the same submission of a batch (and part)."""
    digest = hashlib.sha256()
    for job in jobs:
        digest.update(fingerprint_content(job).encode())
    rest = batch.model_dump(exclude_defaults=True, exclude={"items", "defaults"})
    digest.update(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest()


def _pictures(job: Job) -> Iterable[Job]:
    if job.n == 1:
        yield job
        return
    for k, ident in enumerate(job.item_ids()):
        change: dict[str, object] = {"id": ident, "n": 1}
        if job.seed is not None:
            change["seed"] = job.seed + k
        yield job.model_copy(update=change)


def _item(job: Job, uid: Uid, parent: str, origin: Mapping[str, str], fingerprint: str) -> NewItem:
    """`parent` is the id of the job that makes the item."""
    times = [_us(time) for time in (job.expires_at, job.deadline) if time is not None]
    return NewItem(
        uid=str(uid),
        gid="",
        part="",
        route=job.route,
        lane=job.priority,
        head=head_of(uid.tenant, parent, uid.item, uid.batch or None, job.metadata, origin),
        spec=job.to_spec(),
        fingerprint=fingerprint,
        not_before_us=_us(job.not_before) if job.not_before is not None else None,
        # A job whose deadline has passed cannot be finished in time, so it need not start.
        expires_us=min(times) if times else None,
        max_attempts=job.max_attempts,
        entry="",
    )


def _us(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000)
