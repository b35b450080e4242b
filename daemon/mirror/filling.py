"""Fills the tables from the records: single rows that are in doubt, or everything after a gap in the stream."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from redis.asyncio import Redis

from daemon.gateway.events.frames import Position
from daemon.mirror.database import Database, Tables
from daemon.mirror.rows import BatchRow, ItemRow, batch_row, item_row
from pixmill.broker.streams import ranked
from pixmill.records.keys import Keys, Uid
from pixmill.records.records import GroupView, ItemView, Records

PAGE = 500
MOST_NAMES = 1_000_000  # of a list; the index has 10,000 at most

T = TypeVar("T")


class Filler:
    """Reads records into rows. `at` is where the stream was before the records are read: they are at least as new."""

    def __init__(self, client: Redis, keys: Keys, database: Database) -> None:
        self._client = client
        self._keys = keys
        self._records = Records(client, keys)
        self._database = database

    async def items(self, uids: Iterable[Uid], at: Position) -> list[ItemRow]:
        """The rows of these items, those that still have records."""
        views = await self._records.items([str(uid) for uid in uids])
        return [item_row(view, at) for view in views if view is not None]

    async def batches(self, gids: Collection[str], at: Position) -> list[BatchRow]:
        """The rows of these batches, those that still have records."""
        views = await self._records.groups(gids) if gids else []
        return [batch_row(view, at) for view in views if view is not None and view.kind == "batch"]

    async def everything(self, at: Position) -> None:
        """Write all work that is on record, and then the rest of what the tables take for unended."""
        names = [
            name
            for key in (self._keys.index, self._keys.active)
            for name in await ranked(self._client, key, 0, MOST_NAMES)
        ]
        for page in _pages(list(dict.fromkeys(names))):
            await self._write_named(page, at)
        while await self._look_again(at):
            pass

    async def running(self, at: Position, silent_s: float) -> None:
        """Read again a page of items that run by rows which are older than `silent_s`: a release has no event."""

        async def look(tables: Tables) -> None:
            uids = await tables.running_items(at[0] - round(silent_s * 1000), PAGE)
            rows = await self.items(uids, at)
            await tables.put_items(rows)
            await tables.lose(set(uids) - {row.uid for row in rows}, ())

        await self._database.run(look)

    async def _write_named(self, names: Sequence[str], at: Position) -> None:
        groups = await self._records.groups(names)
        singles = [name for name, group in zip(names, groups, strict=True) if group is None]
        await self._put([view for view in await self._records.items(singles) if view is not None], [], at)
        for group in groups:
            if group is not None:
                async for members in self._records.pages(group.gid):
                    await self._put(members, [], at)
        # A batch comes after its items: its end then shows that these are whole.
        await self._put([], [group for group in groups if group is not None and group.kind == "batch"], at)

    async def _put(self, items: Sequence[ItemView], batches: Sequence[GroupView], at: Position) -> None:
        item_rows = [item_row(view, at) for view in items]
        batch_rows = [batch_row(view, at) for view in batches]

        async def put(tables: Tables) -> None:
            await tables.put_items(item_rows)
            await tables.put_batches(batch_rows)

        if item_rows or batch_rows:
            await self._database.run(put)

    async def _look_again(self, at: Position) -> bool:
        """Look for the records of a page of unended rows that no list has named; returns whether there were any."""
        return await self._database.run(partial(self._look_again_in, at))

    async def _look_again_in(self, at: Position, tables: Tables) -> bool:
        items, batches = await tables.open_items(at, PAGE), await tables.open_batches(at, PAGE)
        item_rows, batch_rows = await self.items(items, at), await self.batches(batches, at)
        await tables.put_items(item_rows)
        await tables.put_batches(batch_rows)
        await tables.lose(
            set(items) - {row.uid for row in item_rows},
            set(batches) - {row.gid for row in batch_rows},
        )
        return bool(items or batches)


def _pages(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), PAGE):
        yield values[start : start + PAGE]
