"""Accepts jobs and batches, from a stream entry or from a request: checks, items, and their queueing.

One item is one provider call that makes one picture. A job of one picture is accepted in one step. A batch, or a job of
several pictures, is opened and then filled in chunks, so that no script runs long. Every step may be repeated: the same
content resumes an acceptance that was interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import orjson

from daemon.accounts.routes import Route, Routes
from daemon.callbacks.signing import Webhooks
from daemon.intake.journal import Journal, journaled
from daemon.intake.objects import check_objects
from daemon.queue.messages import Accepted, NewGroup, NewItem, Opened, PartEnd
from daemon.queue.queue import Queue
from daemon.queue.steps import LATE_S, GroupCommit
from pixmill.contract import (
    BATCH_TYPE,
    JOB_TYPE,
    Batch,
    Job,
    Rejection,
    fingerprint_content,
    pixel_fingerprint,
)
from pixmill.records.keys import Uid, batch_gid, job_gid

CLOUD_EVENT_FIELDS = (b"source", b"time", b"traceparent")
CHUNK = 32  # items per accept call: the script takes about 1.5 ms then
CONFLICT = (
    "This id is taken by work with other content, whose result stands; send the changed work under a new id."
)

Verdict = Literal["new", "duplicate", "conflict", "gone"]


class PreparedPart(NamedTuple):
    """A batch, or one part of it, that may be accepted."""

    batch: Batch
    gid: str
    group: NewGroup
    items: Sequence[NewItem]

    def begun(self) -> PreparedPart:
        """The same part, of a batch that was begun before: `gone` if that has been deleted since."""
        return self._replace(group={**self.group, "must_exist": True})


class Acceptor:
    """Accepts work for one installation. `on_queued` gets the lane of each new item.

    `journal` is for requests: work of several steps has no entry in the jobs stream, so its first step journals it, and
    replicas go on with it if this process is killed. And a caller may know its own tenant only, so inputs name objects
    of that one.
    Errors: Rejection, and those of the Redis client.
    """

    def __init__(
        self,
        queue: Queue,
        routes: Routes,
        webhooks: Webhooks,
        on_queued: Callable[[str], None],
        *,
        journal: Journal | None = None,
    ) -> None:
        self._queue = queue
        self._routes = routes
        self._webhooks = webhooks
        self._on_queued = on_queued
        self._journal = journal
        self._single = GroupCommit(self.singles, most=CHUNK, late_s=LATE_S)

    def check(self, job: Job) -> None:
        """Refuse a job that cannot work, before anything is queued; raises Rejection."""
        self._routes.check(job)
        if job.callback is not None:
            self._webhooks.check(job.callback, tenant=job.tenant, ident=job.id)
        if self._journal is not None:
            check_objects(job)

    def check_batch(self, batch: Batch) -> list[Job]:
        """The batch's jobs; raises Rejection for the first that cannot work: half a batch is of no use."""
        jobs = batch.jobs()
        if batch.callback is not None:
            self._webhooks.check(batch.callback, tenant=batch.tenant, ident=batch.id)
        for index, job in enumerate(jobs):
            try:
                self.check(job)
            except Rejection as rejection:
                at = f"items.{index}.{rejection.field}" if rejection.field else f"items.{index}"
                rejection.field = at
                rejection.message = f'`{at}` (item "{job.id}"): {rejection.message}'
                rejection.ident = batch.id
                raise
        return jobs

    def single(self, job: Job, origin: Mapping[str, str], entry: str = "") -> NewItem:
        """The item of a job of one picture; raises Rejection."""
        self.check(job)
        return single_item(job, self._routes, entry, origin)

    async def singles(self, items: Sequence[NewItem]) -> Sequence[Accepted]:
        """Accept jobs of one picture in one step; `full` for one whose tenant has reached its cap."""
        return await self._accept(items, None)

    async def job(
        self, job: Job, origin: Mapping[str, str], entry: str = "", *, must_exist: bool = False
    ) -> Verdict:
        """Accept a job of any number of pictures. Raises Rejection, also for a full backlog."""
        if job.n == 1:
            # Jobs that come at the same time, as by HTTP, share one step.
            state = await self._single.submit(self.single(job, origin, entry))
            if state == "full":
                raise self.full(job.tenant, job.id)
            return _VERDICTS[state]
        self.check(job)
        gid = job_gid(job.tenant, job.id)
        items = pictures_of(job, self._routes, gid, "", "1", origin)
        opened = await self._queue.open_group(
            gid,
            "job",
            {1: journaled(JOB_TYPE, job.to_spec())} if self._journal is not None else {},
            head=job_head(job, origin),
            fingerprint=items[0].fingerprint,
            members=len(items),
            route=job.route,
            must_exist=must_exist or None,
        )
        return await self._fill(opened, job.tenant, job.id, items, PartEnd(gid, "1", entry))

    async def batch(self, batch: Batch, origin: Mapping[str, str], entry: str = "") -> Verdict:
        """Accept a batch, or one part of it. Raises Rejection, also for a full backlog."""
        return await self.part(self.prepared(batch, origin), entry)

    def prepared(self, batch: Batch, origin: Mapping[str, str]) -> PreparedPart:
        """A batch, or one part of it, as its items, without a call to Redis; raises Rejection."""
        jobs = self.check_batch(batch)
        gid, part = batch_gid(batch.tenant, batch.id), str(batch.part)
        routes = self._routes
        items = [item for job in jobs for item in pictures_of(job, routes, gid, batch.id, part, origin)]
        group: NewGroup = {
            "head": batch_head(batch, origin),
            "fingerprint": batch_fingerprint(batch, jobs),
            "members": len(items),
            "part": batch.part,
            "parts": batch.parts,
            "max_in_flight": batch.max_in_flight,
            "route": jobs[0].route,
            "details": _details(batch),
        }
        return PreparedPart(batch, gid, group, items)

    async def part(
        self, part: PreparedPart, entry: str = "", *, later: Sequence[PreparedPart] = ()
    ) -> Verdict:
        """As `batch`, for a prepared part. `later` parts, which the caller accepts next, are journaled with it."""
        batch, end, group = part.batch, PartEnd(part.gid, str(part.batch.part), entry), part.group
        own: dict[int, bytes] = {}
        if self._journal is not None:
            own[batch.part] = journaled(BATCH_TYPE, batch.to_data())
            if later:
                mark = await self._journal.stage(part.gid, (each.batch for each in later))
                group = {**group, "mark": mark, "staged": [each.batch.part for each in later]}
        opened = await self._queue.open_group(part.gid, "batch", own, **group)
        return await self._fill(opened, batch.tenant, batch.id, part.items, end)

    def full(self, tenant: str, ident: str) -> Rejection:
        """The refusal of work whose tenant has reached its cap."""
        message = (
            f'Tenant "{tenant}" may have {self._queue.max_backlog_per_tenant} items waiting '
            "(worker.max_backlog_per_tenant), and this entry would exceed that; send it again when some have ended."
        )
        return Rejection("backlog_full", message, tenant=tenant, ident=ident)

    async def _fill(
        self, opened: Opened, tenant: str, ident: str, items: Sequence[NewItem], end: PartEnd
    ) -> Verdict:
        if opened == "full":
            raise self.full(tenant, ident)
        if opened == "duplicate" or opened == "conflict" or opened == "gone":
            return opened
        for start in range(0, len(items), CHUNK):
            is_last = start + CHUNK >= len(items)
            await self._accept(items[start : start + CHUNK], end if is_last else None, end.entry)
        return "new"

    async def _accept(
        self, items: Sequence[NewItem], end: PartEnd | None, entry: str | None = None
    ) -> Sequence[Accepted]:
        states = await self._queue.accept(items, end, entry)
        for item, state in zip(items, states, strict=True):
            if state == "queued":
                self._on_queued(item.lane)
        return states


# An item that is resumed was queued by an earlier try of the same acceptance.
_VERDICTS: Mapping[Accepted, Verdict] = {
    "queued": "new",
    "resumed": "new",
    "duplicate": "duplicate",
    "conflict": "conflict",
}


def job_head(job: Job, origin: Mapping[str, str]) -> str:
    """The identity that the events of a job of several pictures begin with."""
    return head_of(job.tenant, job.id, job.id, metadata=job.metadata, origin=origin)


def batch_head(batch: Batch, origin: Mapping[str, str]) -> str:
    """The identity that the events of a batch begin with."""
    return head_of(batch.tenant, batch.id, batch.id, batch.id, batch.metadata, origin)


def _details(batch: Batch) -> bytes:
    callback = batch.callback.model_dump(exclude_none=True) if batch.callback else None
    return orjson.dumps({"metadata": batch.metadata or {}, "warnings": batch.warnings, "callback": callback})


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
