"""Reads the records of jobs and batches as typed values.

Each call takes one or two pipelines, for any number of records. Records end some time after their work (`retention`),
so a missing record may have existed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

import orjson
from redis.asyncio import Redis

from pixmill.broker.streams import newest, ranked
from pixmill.records.keys import Keys, Uid, batch_gid, job_gid
from pixmill.records.views import GroupView, ItemView, Progress, View, group_view, item_view

__all__ = ["GroupView", "ItemView", "Progress", "Records", "View"]

PAGE = 500
PROGRESS_LOOK_BACK = 200  # how many entries of a batch's event stream are searched for its newest progress


class Records:
    """Reads the records of one installation."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self.keys = keys

    async def item(self, uid: Uid | str) -> ItemView | None:
        """The item of this name, or None if it has no record."""
        return (await self.items([str(uid)]))[0]

    async def items(self, uids: Sequence[str], *, with_deleted: bool = False) -> list[ItemView | None]:
        """Many items in one round trip, in their order; `with_deleted` also those whose deletion has begun."""
        pipe = self._client.pipeline(transaction=False)
        for uid in uids:
            pipe.hgetall(self.keys.item(uid))
            pipe.zscore(self.keys.delayed, uid)
        replies = await pipe.execute()
        return [
            item_view(uid, fields, due_us) if fields and (with_deleted or b"deleting" not in fields) else None
            for uid, fields, due_us in zip(uids, replies[::2], replies[1::2], strict=True)
        ]

    async def group(self, gid: str) -> GroupView | None:
        """The batch or the job of several pictures of this name."""
        return (await self.groups([gid]))[0]

    async def groups(self, gids: Iterable[str]) -> list[GroupView | None]:
        """Many groups in one round trip, in their order."""
        pipe = self._client.pipeline(transaction=False)
        names = list(gids)
        for gid in names:
            pipe.hgetall(self.keys.group(gid))
        return [group_view(gid, fields) for gid, fields in zip(names, await pipe.execute(), strict=True)]

    async def find(self, tenant: str, ident: str) -> View | None:
        """The record behind an id: a batch, else a job; `BATCH/ITEM` names one item of a batch."""
        if "/" in ident:
            batch, item = ident.split("/", 1)
            return await self.item(Uid(tenant, batch, item))
        groups = await self.groups([batch_gid(tenant, ident), job_gid(tenant, ident)])
        return groups[0] or groups[1] or await self.item(Uid(tenant, "", ident))

    async def members(self, gid: str, start: int = 0, count: int = PAGE) -> list[ItemView]:
        """A page of a group's items in the order of acceptance, without those whose record has ended."""
        uids = await ranked(self._client, self.keys.members(gid), start, count)
        return [view for view in await self.items(uids) if view is not None]

    async def all_members(self, gid: str) -> list[ItemView]:
        """Every item of a group."""
        return [view async for page in self.pages(gid) for view in page]

    async def pages(self, gid: str) -> AsyncIterator[list[ItemView]]:
        """Every item of a group by pages; other work of the process goes on between them."""
        total = int(await self._client.zcard(self.keys.members(gid)))
        for start in range(0, total, PAGE):
            yield await self.members(gid, start)

    async def recent(self, count: int, *, tenant: str | None = None, active: bool = False) -> list[View]:
        """The newest batches and jobs, newest first; `active` leaves out those that have ended."""
        views: list[View] = []
        async for page in self._newest():
            views += [view for view in page if tenant in (None, view.tenant) and not (active and view.ended)]
            if len(views) >= count:
                break
        return views[:count]

    async def held(self, count: int, *, tenant: str | None = None) -> list[ItemView]:
        """The items that wait for a person's decision, newest work first."""
        items: list[ItemView] = []
        async for page in self._newest():
            for view in page:
                if tenant not in (None, view.tenant):
                    continue
                if isinstance(view, ItemView):
                    items += [view] if view.needs_person else []
                elif view.counts.held:
                    items += [item for item in await self.all_members(view.gid) if item.needs_person]
                if len(items) >= count:
                    return items[:count]
        return items

    async def _newest(self) -> AsyncIterator[list[View]]:
        """All batches and jobs on record, by pages."""
        start = 0
        while True:
            names = await ranked(self._client, self.keys.index, start, PAGE, newest_first=True)
            yield await self._views(names)
            if len(names) < PAGE:
                return
            start += PAGE

    async def progress(self, view: GroupView) -> Progress:
        """The rest of a batch's estimate, and what holds it back, by its newest progress event."""
        for entry, fields in await newest(self._client, self.keys.batch_events(view.id), PROGRESS_LOOK_BACK):
            if fields.get(b"type") in (b"batch.progress", b"batch.finished"):
                data = orjson.loads(fields[b"data"])
                # Two tenants' batches of one name share a stream. An estimate from before the batch's end is void: a
                # retry has opened it again.
                if data.get("tenant") == view.tenant:
                    return Progress(await self._left_s(data.get("eta_seconds"), entry), data.get("bound"))
        return Progress(None, None)

    async def _left_s(self, eta_s: float | None, entry: str) -> float | None:
        """An estimate less the time since the event `entry`; None if that time has passed."""
        if eta_s is None:
            return None
        seconds, micros = await self._client.time()
        left_s = eta_s - (int(seconds) + int(micros) / 1e6 - int(entry.partition("-")[0]) / 1000)
        return round(left_s, 1) if left_s >= 0 else None

    async def _views(self, names: Sequence[str]) -> list[View]:
        """The items and groups of these names; a name does not show whether a job makes one picture or several."""
        groups = await self.groups(names)
        jobs = [name for name, group in zip(names, groups, strict=True) if group is None]
        items = iter(await self.items(jobs) if jobs else [])
        found = [group or next(items) for group in groups]
        return [view for view in found if view is not None]
