"""Reading streams and sorted sets with honest types: redis-py types its replies as what any server might say."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

Entry = tuple[str, dict[bytes, bytes]]


async def after(client: Redis, stream: str, last: str, count: int) -> list[Entry]:
    """Up to `count` entries that follow `last`, oldest first."""
    return _entries(await client.xrange(stream, f"({last}", count=count))


async def newest(client: Redis, stream: str, count: int, *, before: str | None = None) -> list[Entry]:
    """Up to `count` entries, newest first; only those before an entry, if it is named."""
    return _entries(await client.xrevrange(stream, max=f"({before}" if before else "+", count=count))


async def entry(client: Redis, stream: str, name: str) -> dict[bytes, bytes] | None:
    """The fields of one entry, or None when it is not there (any more)."""
    found = _entries(await client.xrange(stream, name, name))
    return found[0][1] if found else None


async def tail(client: Redis, stream: str) -> str:
    """The id of the newest entry; what comes later follows it."""
    found = await newest(client, stream, 1)
    return found[0][0] if found else "0-0"


async def wait_after(client: Redis, stream: str, last: str, count: int, block_ms: int) -> list[Entry]:
    """As `after`, but waits up to `block_ms` for the first one; `client` must not be shared with commands."""
    reply: Any = await client.xread({stream: last}, count=count, block=block_ms)
    # A mapping or a list of pairs, depending on the protocol that was agreed on.
    pages = list(reply.values()) if isinstance(reply, dict) else [rows for _, rows in reply or ()]
    return _entries(pages[0]) if pages else []


async def ranked(
    client: Redis, zset: str, first: int, count: int, *, newest_first: bool = False
) -> list[str]:
    """A slice of a sorted set's members, by rank."""
    names: Any = await client.zrange(zset, first, first + count - 1, desc=newest_first)
    return [name.decode() for name in names]


def _entries(rows: Any) -> list[Entry]:
    return [(name.decode(), fields) for name, fields in rows or () if fields]
