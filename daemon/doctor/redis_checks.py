"""Checks the Redis that everything depends on: its version, what it keeps, what it allows, and its clock."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from daemon.doctor.checks import CHECK_TIMEOUT_S, Check, Finding, State, fail, ok, warn
from daemon.doctor.permissions import missing
from pixmill.broker.errors import CONNECTION_FAULTS, in_words, lost
from pixmill.records.keys import INTAKE_GROUP, Keys
from pixmill.redaction import redact

OLDEST_REDIS = (6, 2)
CLOCK_WARN_S = 1.0
CLOCK_FAIL_S = 60.0


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
    """Version, persistence, eviction, scripts, writes, permissions, clock, and whether the jobs stream lost entries."""
    return {
        "redis": partial(_version, client),
        "aof": partial(_persistence, client),
        "eviction": partial(_eviction, client),
        "scripts": partial(_scripts, client),
        "writes": partial(_writes, client, keys),
        "acl": partial(_permissions, client, keys),
        "clock": partial(_clock, client, now_s),
        "jobs": partial(_jobs, client, keys.jobs),
    }


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
    advice = "set `appendonly yes`; otherwise the queue, receipts of paid tasks and quotas are lost with the server."
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
    advice = "set `maxmemory-policy noeviction`: this is a queue, not a cache."
    if not info.get("maxmemory"):
        return warn(f"maxmemory-policy is {policy}, without a limit as yet: {advice}")
    return fail(f"maxmemory-policy is {policy}, which deletes jobs: {advice}")


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


async def _jobs(client: Redis, jobs: str) -> Finding:
    """Whether entries vanished that no worker had read, as when a producer trims the stream.

    A reader deletes every entry that it has finished, so the entries that are there are pending or unread. Both
    replies belong to one moment, or a job that arrives between them would look lost.
    """
    async with client.pipeline(transaction=True) as pipe:
        pipe.xinfo_stream(jobs)
        pipe.xinfo_groups(jobs)
        stream, groups = await pipe.execute(raise_on_error=False)
    if isinstance(stream, ResponseError) and "no such key" in str(stream).lower():
        return ok(f"{jobs} does not exist yet: nothing was ever sent here.")
    for reply in (stream, groups):
        if isinstance(reply, Exception):
            raise reply
    waiting = stream["length"]
    group = next((each for each in groups if each["name"] in (INTAKE_GROUP, INTAKE_GROUP.encode())), None)
    if group is None:
        return warn(f"No worker has read {jobs} yet; waiting: {waiting}. Start one.")
    if group.get("entries-read") is None or "entries-added" not in stream:
        return ok(f"{jobs} waiting: {waiting}; this server does not count lost entries.")
    lost = stream["entries-added"] - group["entries-read"] + group["pending"] - waiting
    if lost > 0:
        sentence = f"Entries of {jobs} that vanished before they were accepted: {lost}"
        return fail(f"{sentence}. Send without MAXLEN and MINID, and never XTRIM or XDEL it.")
    return ok(f"{jobs} has lost nothing; waiting: {waiting}.")


async def server_time_s(client: Redis) -> float:
    """The clock of Redis, in Unix seconds."""
    whole, micros = await client.time()
    return int(whole) + int(micros) / 1e6
