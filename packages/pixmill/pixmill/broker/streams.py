"""Reads streams and sorted sets with precise types, since redis-py types a reply as anything."""

from __future__ import annotations

from itertools import chain
from typing import Any

from redis.asyncio import Redis

Entry = tuple[str, dict[bytes, bytes]]


async def after(client: Redis, stream: str, last: str, count: int) -> list[Entry]:
    """Up to `count` entries that follow `last`, oldest first."""
    return _entries(await client.xrange(stream, f"({last}", count=count))


async def newest(client: Redis, stream: str, count: int, *, before: str | None = None) -> list[Entry]:
    """Up to `count` entries, newest first; with `before`, only entries older than that one."""
    return _entries(await client.xrevrange(stream, max=f"({before}" if before else "+", count=count))


async def entry(client: Redis, stream: str, name: str) -> dict[bytes, bytes] | None:
    """The fields of one entry, or None when it is not there (any more)."""
    found = _entries(await client.xrange(stream, name, name))
    return found[0][1] if found else None


async def tail(client: Redis, stream: str) -> str:
    """The id of the newest entry, or "0-0"; later entries follow it."""
    found = await newest(client, stream, 1)
    return found[0][0] if found else "0-0"


async def wait_after(client: Redis, stream: str, last: str, count: int, block_ms: int) -> list[Entry]:
    """As `after`, but waits up to `block_ms` for the first one; `client` must not be shared with commands."""
    return _page(await client.xread({stream: last}, count=count, block=block_ms))


async def read_new(
    client: Redis, group: str, consumer: str, stream: str, count: int, block_ms: int | None = None
) -> list[Entry]:
    """Up to `count` entries that are new to the group; waits up to `block_ms` for the first one."""
    return _page(await client.xreadgroup(group, consumer, {stream: ">"}, count=count, block=block_ms))


async def ranked(
    client: Redis, zset: str, first: int, count: int, *, newest_first: bool = False
) -> list[str]:
    """A slice of a sorted set's members, by rank."""
    names: Any = await client.zrange(zset, first, first + count - 1, desc=newest_first)
    return [name.decode() for name in names]


def _page(reply: Any) -> list[Entry]:
    """The entries of a reply that names one stream: a list of pairs in RESP2, a mapping to pages in RESP3."""
    pages = list(reply.values()) if isinstance(reply, dict) else [rows for _, rows in reply or ()]
    rows = pages[0] if pages else []
    return _entries(chain(*rows) if rows and isinstance(rows[0], list) else rows)


def _entries(rows: Any) -> list[Entry]:
    return [(name.decode(), fields) for name, fields in rows or () if fields]
