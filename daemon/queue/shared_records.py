"""Reads records for many callers at once."""

from __future__ import annotations

from redis.asyncio import Redis

from daemon.queue.steps import LATE_S, GroupCommit
from pixmill.records.keys import Keys, Uid
from pixmill.records.records import ItemView, Records


class SharedRecords(Records):
    """Records whose single items are read together: requests at the same time share a round trip."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        super().__init__(client, keys)
        self._single = GroupCommit(self.items, late_s=LATE_S)

    async def item(self, uid: Uid | str) -> ItemView | None:
        """The item of this name, or None if it has no record."""
        return await self._single.submit(str(uid))
