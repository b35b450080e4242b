"""Checks the Redis that everything depends on: its version, what it keeps, what it allows, and its clock."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from daemon.doctor.checks import ADMIN_CLI, CHECK_TIMEOUT_S, Check, Finding, State, fail, ok, warn
from daemon.doctor.permissions import missing
from pixmill.broker.errors import CONNECTION_FAULTS, in_words, lost
from pixmill.records.keys import Keys
from pixmill.redaction import redact

OLDEST_REDIS = (6, 2)
CLOCK_WARN_S = 1.0
CLOCK_FAIL_S = 60.0
ITEM_BYTES = (
    3_000  # of an item that waits, with a payload of 1 KB; docs/measured/performance.md has what was measured
)
MEMORY_WARN = 0.8


async def unreachable(client: Redis, shown_url: str) -> Finding | None:
    """The finding that Redis cannot be used, which makes its other checks pointless; None if it can."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await client.ping()
    except AuthenticationError as error:
        sentence = f"{shown_url} refuses the login ({redact(str(error))}): are user and password in `redis.url` right?"
    except NoPermissionError:
        return None
    except (RedisError, *CONNECTION_FAULTS) as error:
        sentence = f"{shown_url} does not answer ({lost(error)}). Is it running, and is `redis.url` right?"
    else:
        return None
    return Finding("redis", State.FAIL, sentence)


def redis_checks(client: Redis, keys: Keys, *, now_s: Callable[[], float] = time.time) -> dict[str, Check]:
    """Version, persistence, eviction, scripts, writes, permissions and clock."""
    return {
        "redis": partial(_version, client),
        "aof": partial(_persistence, client),
        "eviction": partial(_eviction, client),
        "scripts": partial(_scripts, client),
        "writes": partial(_writes, client, keys),
        "acl": partial(_permissions, client, keys),
        "clock": partial(_clock, client, now_s),
    }


def memory_checks(client: Redis, most_waiting: int) -> dict[str, Check]:
    """Whether memory is left for the backlog. One tenant may have `most_waiting` items that wait; 0: no cap."""
    return {"memory": partial(_memory, client, most_waiting)}


async def _version(client: Redis) -> Finding:
    info: Any = await client.info("server")
    name = str(info.get("server_name") or "redis").capitalize()
    shown = str(info.get("valkey_version") or info.get("redis_version") or "")
    version = tuple(int(part) for part in re.findall(r"\d+", str(info.get("redis_version", "")))[:2])
    if not version:
        return warn(f"{name} does not report its version; it must be as Redis 6.2 or newer.")
    if version < OLDEST_REDIS:
        return fail(f"{name} {shown} is too old: use Redis 6.2 or newer, or Valkey.")
    return ok(f"{name} {shown}.")


async def _persistence(client: Redis) -> Finding:
    info: Any = {**await client.info("persistence"), **await client.info("replication")}
    if "aof_enabled" not in info:
        return warn("This server does not report whether it keeps an append-only file.")
    if info["aof_enabled"] and info.get("aof_last_write_status", "ok") != "ok":
        return fail("The append-only file cannot be written: look at the server's disk.")
    if info["aof_enabled"]:
        return ok("The append-only file is on.")
    advice = (
        "set `appendonly yes`; otherwise the queue, receipts of paid tasks and quotas are lost with the server: "
        f"{_configure('appendonly yes')}."
    )
    if info.get("connected_slaves"):
        return warn(f"Only replicas keep what is written: {advice}")
    return fail(f"Nothing is kept over a restart: {advice}")


async def _eviction(client: Redis) -> Finding:
    info: Any = await client.info("memory")
    policy = info.get("maxmemory_policy")
    if policy is None:
        return warn("This server does not report its maxmemory-policy; it must be noeviction.")
    if policy == "noeviction":
        return ok("maxmemory-policy is noeviction.")
    advice = f"this is a queue, not a cache: {_configure('maxmemory-policy noeviction')}."
    if not info.get("maxmemory"):
        return warn(f"maxmemory-policy is {policy}, without a limit as yet: {advice}")
    return fail(f"maxmemory-policy is {policy}, which deletes jobs: {advice}")


def _configure(setting: str) -> str:
    """The command that sets it now, and where it belongs for the next start; a managed server has it in its console."""
    return (
        f"`{ADMIN_CLI} CONFIG SET {setting}` as an administrator, then the same in the configuration file or in the "
        "arguments that start the server"
    )


async def _memory(client: Redis, most_waiting: int) -> Finding:
    info: Any = await client.info("memory")
    limit, used = info.get("maxmemory"), info.get("used_memory")
    if used is None:
        return warn("This server does not report its memory.")
    whose = "maxmemory" if limit else "the memory of its machine"
    limit = limit or info.get("total_system_memory")
    if not limit:
        return warn("This server reports no limit of its memory: look at its plan.")
    share, room = used / limit, max(0, limit - used) // ITEM_BYTES
    left = f"Redis uses {share:.0%} of {whose}; about {room:,} more items of 1 KB can wait"
    more = _configure(f"maxmemory {_gib(2 * limit)}gb")
    advice = f"give the machine more, then {more}" if whose == "maxmemory" else "use a larger machine"
    if share >= MEMORY_WARN:
        return warn(f"{left}. When it is full nothing is accepted and no call begins: {advice}.")
    if most_waiting > room:
        return warn(
            f"{left}, and one tenant may queue {most_waiting:,}: {advice}, or lower `worker.max_backlog_per_tenant`."
        )
    return ok(f"{left}.")


def _gib(count: int) -> int:
    return max(1, math.ceil(count / 1024**3))


async def _scripts(client: Redis) -> Finding:
    try:
        await client.eval("return redis.call('TIME')[1]", 0)
    except ResponseError as error:
        why = redact(str(error))
        return fail(f"Scripts are refused ({why}): allow EVAL and EVALSHA, in the ACL and in any proxy.")
    return ok("Scripts run.")


async def _writes(client: Redis, keys: Keys) -> Finding:
    try:
        # A script fails for the same reasons as a worker's. On a cluster its two keys need a common slot.
        await client.eval("return redis.call('SET', ARGV[1], 1, 'PX', 1000)", 1, keys.prefix, keys.probe)
    except ResponseError as error:
        return fail(in_words(error))
    return ok("Redis accepts writes.")


async def _permissions(client: Redis, keys: Keys) -> Finding:
    if names := await missing(client, keys):
        lacks = f"The ACL of the user in `redis.url` lacks commands that a worker needs: {', '.join(names)}"
        return fail(f"{lacks}. deploy/redis/users.acl grants all of it.")
    return ok("The user in `redis.url` may do all that a worker does.")


async def _clock(client: Redis, now_s: Callable[[], float]) -> Finding:
    before_s = now_s()
    server_s = await server_time_s(client)
    after_s = now_s()
    # The server read its clock somewhere between the two.
    apart_s = server_s - (before_s + after_s) / 2
    doubt_s = (after_s - before_s) / 2
    side = "ahead of" if apart_s > 0 else "behind"
    sentence = f"Redis is {abs(apart_s):.3f} s {side} this machine (± {doubt_s:.3f} s)"
    if abs(apart_s) - doubt_s > CLOCK_FAIL_S:
        return fail(f"{sentence}: signatures and deadlines fail. Set both clocks by NTP.")
    if abs(apart_s) - doubt_s > CLOCK_WARN_S:
        return warn(f"{sentence}: deadlines are off by as much. Set both clocks by NTP.")
    return ok(f"{sentence}.")


async def server_time_s(client: Redis) -> float:
    """The clock of Redis, in Unix seconds."""
    whole, micros = await client.time()
    return int(whole) + int(micros) / 1e6
