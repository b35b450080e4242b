"""The commands that a worker's Redis user needs, and which of them the server refuses.

deploy/redis/users.acl grants exactly these; tests compare the two, and both with the commands of a whole run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from daemon.queue.steps import Steps
from pixmill.records.keys import Keys

# Each with words that are harmless on a key of another type; KEY and BELL stand for names of the installation.
TRIED: tuple[str, ...] = (
    "del KEY:none",
    "exists KEY",
    "expire KEY:none 1",
    "get KEY",
    "hdel KEY f",
    "hexists KEY f",
    "hget KEY f",
    "hgetall KEY",
    "hincrby KEY f 1",
    "hincrbyfloat KEY f 1",
    "hlen KEY",
    "hmget KEY f",
    "hset KEY f v",
    "hsetnx KEY f v",
    "hvals KEY",
    "lindex KEY 0",
    "llen KEY",
    "lpop KEY",
    "lpos KEY v",
    "lpush KEY v",
    "lrange KEY 0 0",
    "ltrim KEY 0 0",
    "mget KEY",
    "persist KEY:none",
    "pexpire KEY:none 1",
    "pttl KEY",
    "publish BELL doctor",
    "rpush KEY v",
    "sadd KEY v",
    "scard KEY",
    "set KEY x PX 1000",
    "spop KEY",
    "srem KEY v",
    "time",
    "xack KEY g 0-1",
    "xadd KEY * f v",
    "xautoclaim KEY g c 0 0-0",
    "xclaim KEY g c 0 0-1",
    "xdel KEY 0-1",
    "xgroup|create KEY g 0",
    "xgroup|delconsumer KEY g c",
    "xinfo|consumers KEY g",
    "xinfo|groups KEY",
    "xinfo|stream KEY",
    "xlen KEY",
    "xpending KEY g",
    "xrange KEY - +",
    "xread STREAMS KEY 0",
    "xreadgroup GROUP g c STREAMS KEY 0",
    "xrevrange KEY + -",
    "zadd KEY 1 v",
    "zcard KEY",
    "zcount KEY 0 1",
    "zrange KEY 0 0",
    "zrangebyscore KEY 0 1",
    "zrank KEY v",
    "zrem KEY v",
    "zremrangebyrank KEY 0 0",
    "zremrangebyscore KEY 0 1",
    "zrevrange KEY 0 0",
    "zscore KEY v",
)
# Needed commands that a script may not call. `_missing_beside_scripts` tries those that an ACL may refuse.
OTHERS: tuple[str, ...] = (
    "auth",
    "cluster|slots",
    "discard",
    "eval",
    "evalsha",
    "exec",
    "hello",
    "info",
    "multi",
    "ping",
    "select",
    "subscribe",
    "unsubscribe",
    "unwatch",
    "watch",
)


async def missing(client: Redis, keys: Keys) -> list[str]:
    """Names of needed commands that the ACL refuses. Raises the client's errors, also if it refuses all scripts."""
    words = [_words(each, keys) for each in TRIED]
    refused = await Steps(client, keys.prefix)("allowed", commands=words)
    return [TRIED[number - 1].split()[0] for number in refused] + [
        name async for name in _missing_beside_scripts(client, keys)
    ]


def _words(command: str, keys: Keys) -> list[str]:
    name, *rest = command.split()
    return [*name.split("|"), *(word.replace("KEY", keys.doctor).replace("BELL", keys.bell) for word in rest)]


async def _missing_beside_scripts(client: Redis, keys: Keys) -> AsyncIterator[str]:
    for name, call in {"info": _info, "multi": _multi, "subscribe": _subscribe, "watch": _watch}.items():
        try:
            await call(client, keys)
        except NoPermissionError:
            yield name


async def _info(client: Redis, _: Keys) -> None:
    await client.info("server")


async def _multi(client: Redis, _: Keys) -> None:
    async with client.pipeline(transaction=True) as pipe:
        pipe.ping()
        await pipe.execute()


async def _subscribe(client: Redis, keys: Keys) -> None:
    async with client.pubsub() as pubsub:
        await pubsub.subscribe(keys.bell)
        await pubsub.get_message(timeout=1.0)


async def _watch(client: Redis, keys: Keys) -> None:
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch(keys.quotas)
        await pipe.unwatch()  # type: ignore[no-untyped-call]  # the library forgot its annotation
