"""An installation, its mirror, and the comparison of the tables with the records."""

from __future__ import annotations

import json
from typing import Any

from redis.asyncio import Redis

from daemon.gateway.events.frames import Position
from daemon.mirror.database import Database
from daemon.mirror.mirror import Mirror
from daemon.mirror.rows import BatchRow, ItemRow, batch_row, item_row
from daemon.settings import SecretUrl
from pixmill.records.records import Records
from tests.daemon.harness import Installation
from tests.daemon.live import by_prompt

AT: Position = (0, 0)
# Where a row came from is no part of what it says.
SOURCES = ("event_ms", "event_seq", "from_record")
JSON = ("error", "images", "metadata", "cost")


class Followed:
    """An installation that the test drives, and a mirror that goes when the test says so; `own` is its client."""

    def __init__(self, redis: Redis, url: SecretUrl, own: Redis | None = None) -> None:
        self.installation = Installation(redis)
        self.redis: Any = redis
        self.keys = self.installation.keys
        self.database = Database(url)
        self.reader = Database(url)
        self.mirror = Mirror(own or redis, own or redis, self.keys, self.database)

    async def follow(self) -> None:
        """Let the mirror read and write all events that there are now."""
        while not await self.is_done():
            await self.mirror.step()

    async def is_done(self) -> bool:
        """Whether the mirror has acknowledged every event."""
        for group in await self.groups():
            left = await self.redis.xrange(
                self.keys.events, f"({group['last-delivered-id'].decode()}", count=1
            )
            return not left and int(group["pending"]) == 0
        return False

    async def pending(self) -> int:
        """Events that the mirror has read and not acknowledged."""
        return sum([int(group["pending"]) for group in await self.groups()])

    async def groups(self) -> list[dict[str, Any]]:
        """The groups of the stream of events; the mirror's is the only one."""
        known = await self.redis.exists(self.keys.events)
        return list(await self.redis.xinfo_groups(self.keys.events)) if known else []

    async def work(self) -> None:
        """Claim and settle what waits, as the prompts say."""
        from pixmill.contract import Job

        while claimed := await self.installation.claim(50):
            for item in claimed:
                if (outcome := await by_prompt(item, Job.from_spec(item.spec))) is not None:
                    await self.installation.queue.settle(item, outcome)

    async def recorded(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The rows that the records make: of all items, and of all batches."""
        records = Records(self.redis, self.keys)
        uids = [key.decode().split(":", 2)[2] for key in await self.redis.keys(self.keys.item("*"))]
        items = [_shown(item_row(view, AT)) for view in await records.items(uids) if view is not None]
        gids = [key.decode().split(":", 2)[2] for key in await self.redis.keys(self.keys.group("*"))]
        views = [view for view in await records.groups(gids) if view is not None and view.kind == "batch"]
        return _sorted(items), _sorted([_shown(batch_row(view, AT)) for view in views])

    async def written(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The rows of the two tables."""

        async def read(tables: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
            connection = tables._connection
            items = await connection.fetch(f"SELECT {', '.join(ItemRow._fields)} FROM pixmill_items")
            batches = await connection.fetch(f"SELECT {', '.join(BatchRow._fields)} FROM pixmill_batches")
            return (
                _sorted([_shown(ItemRow(*row)) for row in items]),
                _sorted([_shown(BatchRow(*row)) for row in batches]),
            )

        return await self.reader.run(read)

    async def agrees(self) -> bool:
        return await self.written() == await self.recorded()


def _shown(row: ItemRow | BatchRow) -> dict[str, Any]:
    shown = {name: value for name, value in row._asdict().items() if name not in SOURCES}
    return {name: json.loads(value) if name in JSON and value else value for name, value in shown.items()}


def _sorted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["tenant"], row["batch"], row.get("item", "")))
