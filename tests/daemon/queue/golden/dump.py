"""A dump of every key of an installation as readable JSON, and a dump put back into a server.

`python -m tests.daemon.queue.golden.dump` writes records.json and accounts.json anew, from a server of its own. A
released schema keeps its dumps; a new schema gets others, and the old ones must still be understood.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from redis.asyncio import Redis

from daemon.callbacks.signing import Webhooks
from daemon.queue.outcomes import Cancelled, Failed, Held, Outcome, Retry, Succeeded, Throttled
from daemon.queue.pauses import pause
from pixmill.records.keys import CACHED
from tests.daemon.harness import Installation
from tests.daemon.queue.golden.accounts import ACCOUNTS, fill_accounts
from tests.servers import RedisServer

RECORDS = Path(__file__).parent / "records.json"
ERROR = {"kind": "provider_fault", "message": "The provider failed.", "charged": "maybe", "retryable": True}
PICTURE = Succeeded({"images": [{"key": "default/20261130/a.png", "sha256": "0" * 64}], "attempts": 1})
WISH = {"url": "https://shop.example/hook", "secret": "main"}
RECEIPT = b'{"task_id":"task-1"}'


async def fill(redis: Redis) -> None:
    """Create every kind of record of an installation, in every state. The items' names describe their states."""
    made = Installation(redis, webhooks=Webhooks({"main": (b"k" * 24,)}, allow_hosts=[]))
    await made.queue.install(records_s=86400, failed_s=604800, starts=True)
    await made.submit(
        {"id": "late", "prompt": "x", "expires_at": "2020-01-01T00:00:00Z"},
        {"id": "early", "prompt": "x", "not_before": "2099-01-01T00:00:00Z"},
    )
    await made.queue.due()
    outcomes: dict[str, Outcome] = {
        "succeeded": PICTURE,
        "failed": Failed(ERROR),
        "cancelled": Cancelled(),
        "held": Held(ERROR),
        "throttled": Throttled(ERROR, 1e9),
        "retry_wait": Retry(ERROR, 1e9),
        "exhausted": Retry(ERROR, 0),
    }
    for name, outcome in outcomes.items():
        await made.submit({"id": name, "prompt": name, "max_attempts": 1 if name == "exhausted" else 5})
        (item,) = await made.claim()
        await made.queue.note_intent(item)
        await made.queue.settle(item, outcome, "maybe")
    await made.submit({"id": "called_back", "prompt": "x", "callback": WISH})
    (item,) = await made.claim()
    await made.queue.settle(item, PICTURE)
    await made.submit({"id": "leader", "prompt": "same", "cache": "use"})
    (leader,) = (await made.queue.claim("default", 1, ['["a permit"]'])).items
    await made.queue.note_intent(leader)
    await made.queue.note_receipt(leader, RECEIPT)
    await made.submit({"id": "joined", "prompt": "same", "cache": "use"})
    assert await made.claim() == []
    await made.submit({"id": "origin", "prompt": "other", "cache": "use"})
    (item,) = await made.claim()
    await made.queue.settle(item, PICTURE)
    await made.submit({"id": "cached", "prompt": "other", "cache": "use"})
    await made.submit({"id": "tombstone", "prompt": "x"})
    await made.orders.cancel("item", "default//tombstone", ["queued"])
    await made.batch("ended", 1)
    await made.batch("mixed", 5, max_in_flight=2)
    ended, running = (await made.queue.claim("default", 2)).items
    await made.queue.settle(ended, PICTURE)
    await made.queue.close_groups()
    await made.batch("paused", 2)
    await pause(redis, made.keys, "batch", "default/paused", reason="lunch")
    await pause(redis, made.keys, "route", "other", reason="lunch")
    await made.submit({"id": "several", "prompt": "x", "n": 2}, {"id": "queued", "prompt": "x"})
    await made.add("{not json")
    await made.take_all()
    await made.add({"id": "unread", "prompt": "x"})
    assert running.uid == "default/mixed/i0"
    assert await made.queue.waiting("default", (CACHED,))


async def dump(redis: Redis) -> dict[str, Any]:
    """Key to { type, ttl_ms (none: for ever), value }."""
    client: Any = redis
    found = {}
    for key in sorted(await client.keys("*")):
        kind, ttl_ms = (await client.type(key)).decode(), await client.pttl(key)
        entry = {"type": kind, "value": await _value(client, kind, key)}
        found[key.decode()] = entry if ttl_ms < 0 else {**entry, "ttl_ms": ttl_ms}
    return found


async def _value(client: Any, kind: str, key: bytes) -> Any:
    match kind:
        case "string":
            return (await client.get(key)).decode()
        case "hash":
            return _text(await client.hgetall(key))
        case "list":
            return [each.decode() for each in await client.lrange(key, 0, -1)]
        case "set":
            return sorted(each.decode() for each in await client.smembers(key))
        case "zset":
            return {
                each.decode(): int(score) for each, score in await client.zrange(key, 0, -1, withscores=True)
            }
    groups = await client.xinfo_groups(key)
    return {
        "entries": {entry.decode(): _text(fields) for entry, fields in await client.xrange(key)},
        "groups": {group["name"].decode(): await _group(client, key, group) for group in groups},
    }


async def _group(client: Any, key: bytes, group: Mapping[str, Any]) -> dict[str, Any]:
    pending = await client.xpending_range(key, group["name"], "-", "+", 100)
    owners = {row["message_id"].decode(): row["consumer"].decode() for row in pending}
    return {"last": group["last-delivered-id"].decode(), "pending": owners}


def _text(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


async def restore(redis: Redis, records: Mapping[str, Any]) -> None:
    """Put a dump into an empty server."""
    client: Any = redis
    for key, entry in records.items():
        value = entry["value"]
        match entry["type"]:
            case "string":
                await client.set(key, value)
            case "hash":
                await client.hset(key, mapping=value)
            case "list":
                await client.rpush(key, *value)
            case "set":
                await client.sadd(key, *value)
            case "zset":
                await client.zadd(key, value)
            case "stream":
                for ident, fields in value["entries"].items():
                    await client.xadd(key, fields, id=ident)
                for name, group in value["groups"].items():
                    await client.xgroup_create(key, name, id=group["last"], mkstream=True)
                    for ident, owner in group["pending"].items():
                        await client.xclaim(key, name, owner, 0, [ident], force=True, justid=True)
        if "ttl_ms" in entry:
            await client.pexpire(key, entry["ttl_ms"])


async def main() -> None:
    server = RedisServer()
    redis = Redis.from_url(server.url)
    try:
        for path, write in {RECORDS: fill, ACCOUNTS: fill_accounts}.items():
            await redis.flushall()
            await write(redis)
            path.write_bytes(
                orjson.dumps(await dump(redis), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
            )
    finally:
        await redis.aclose()
        server.close()


if __name__ == "__main__":
    asyncio.run(main())
