"""Checks everything that the daemon depends on. Each check gives one line: its state, and the remedy.

Nothing here costs money, and nothing stays behind: the store gets one small object, which is deleted again.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from daemon.broker.errors import CONNECTION_FAULTS, in_words, lost
from daemon.doctor.permissions import missing
from daemon.queue.keys import INTAKE_GROUP, Keys
from daemon.settings import Credential, Route, SettingsError
from daemon.storage.object_store import ResultStore, StorageError
from providers.base import ChecksCredential, Provider
from providers.errors import redact
from providers.registry import create_provider
from providers.shared.account import nearest_hint

log = structlog.get_logger(__name__)

OLDEST_REDIS = (6, 2)
CLOCK_WARN_S = 1.0
CLOCK_FAIL_S = 60.0
STORE_CLOCK_WARN_S = 5.0  # stores count whole seconds, and the check takes a moment
CHECK_TIMEOUT_S = 15.0
SERVER_TIME_S = 3.0


class State(StrEnum):
    """The result of a check. A warning is no fault yet, or a fact that could not be found out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: which check, its state, and a sentence with the remedy where one is needed."""

    check: str
    state: State
    says: str


Check = Callable[[], Awaitable[Finding]]  # `examine` puts the check's name into the finding


async def examine(checks: Mapping[str, Check], *, timeout_s: float = CHECK_TIMEOUT_S) -> list[Finding]:
    """All findings in the order of `checks`, which run side by side; a check that breaks is a finding, too."""
    findings = await asyncio.gather(*(_guarded(name, check, timeout_s) for name, check in checks.items()))
    return [replace(finding, check=name) for name, finding in zip(checks, findings, strict=True)]


async def _guarded(name: str, check: Check, timeout_s: float) -> Finding:
    try:
        async with asyncio.timeout(timeout_s):
            return await check()
    except TimeoutError:
        return _fail(f"No answer within {timeout_s:g} s.")
    except ResponseError as error:
        return _warn(
            f"Redis does not answer this ({redact(str(error))}). Does the ACL of its user allow the command?"
        )
    except (RedisError, *CONNECTION_FAULTS) as error:
        return _fail(f"Redis does not answer ({lost(error)}).")
    except Exception as error:
        log.exception("a check of the doctor broke", check=name)
        return _fail(f"The check itself broke ({type(error).__name__}); the log has details.")


async def unreachable(client: Redis, shown_url: str) -> Finding | None:
    """The finding that Redis cannot be used, which makes its other checks pointless; None if it can."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await client.ping()
    except AuthenticationError as error:
        says = f"{shown_url} refuses the login ({redact(str(error))}): are user and password in `redis.url` right?"
    except NoPermissionError:
        return None
    except (RedisError, *CONNECTION_FAULTS) as error:
        says = f"{shown_url} does not answer ({lost(error)}). Is it running, and is `redis.url` right?"
    else:
        return None
    return Finding("redis", State.FAIL, says)


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
        return _warn(f"{name} does not report its version; it must be as Redis 6.2 or newer.")
    if version < OLDEST_REDIS:
        return _fail(f"{name} {shown} is too old: use Redis 6.2 or newer, or Valkey.")
    return _ok(f"{name} {shown}.")


async def _persistence(client: Redis) -> Finding:
    info: Any = {**await client.info("persistence"), **await client.info("replication")}
    if "aof_enabled" not in info:
        return _warn("This server does not report whether it keeps an append-only file.")
    if info["aof_enabled"] and info.get("aof_last_write_status", "ok") != "ok":
        return _fail("The append-only file cannot be written: look at the server's disk.")
    if info["aof_enabled"]:
        return _ok("The append-only file is on.")
    advice = "set `appendonly yes`; otherwise the queue, receipts of paid tasks and quotas are lost with the server."
    if info.get("connected_slaves"):
        return _warn(f"Only replicas keep what is written: {advice}")
    return _fail(f"Nothing is kept over a restart: {advice}")


async def _eviction(client: Redis) -> Finding:
    info: Any = await client.info("memory")
    policy = info.get("maxmemory_policy")
    if policy is None:
        return _warn("This server does not report its maxmemory-policy; it must be noeviction.")
    if policy == "noeviction":
        return _ok("maxmemory-policy is noeviction.")
    advice = "set `maxmemory-policy noeviction`: this is a queue, not a cache."
    if not info.get("maxmemory"):
        return _warn(f"maxmemory-policy is {policy}, without a limit as yet: {advice}")
    return _fail(f"maxmemory-policy is {policy}, which deletes jobs: {advice}")


async def _scripts(client: Redis) -> Finding:
    try:
        await client.eval("return redis.call('TIME')[1]", 0)
    except ResponseError as error:
        why = redact(str(error))
        return _fail(f"Scripts are refused ({why}): allow EVAL and EVALSHA, in the ACL and in any proxy.")
    return _ok("Scripts run.")


async def _writes(client: Redis, keys: Keys) -> Finding:
    try:
        # A script fails for the same reasons as a worker's. On a cluster its two keys need a common slot.
        await client.eval("return redis.call('SET', ARGV[1], 1, 'PX', 1000)", 1, keys.prefix, keys.probe)
    except ResponseError as error:
        return _fail(in_words(error))
    return _ok("Redis accepts writes.")


async def _permissions(client: Redis, keys: Keys) -> Finding:
    if names := await missing(client, keys):
        lacks = f"The ACL of the user in `redis.url` lacks commands that a worker needs: {', '.join(names)}"
        return _fail(f"{lacks}. deploy/redis/users.acl grants all of it.")
    return _ok("The user in `redis.url` may do all that a worker does.")


async def _clock(client: Redis, now_s: Callable[[], float]) -> Finding:
    before_s = now_s()
    server_s = await server_time_s(client)
    after_s = now_s()
    # The server read its clock somewhere between the two.
    apart_s = server_s - (before_s + after_s) / 2
    doubt_s = (after_s - before_s) / 2
    side = "ahead of" if apart_s > 0 else "behind"
    says = f"Redis is {abs(apart_s):.3f} s {side} this machine (± {doubt_s:.3f} s)"
    if abs(apart_s) - doubt_s > CLOCK_FAIL_S:
        return _fail(f"{says}: signatures and deadlines fail. Set both clocks by NTP.")
    if abs(apart_s) - doubt_s > CLOCK_WARN_S:
        return _warn(f"{says}: deadlines are off by as much. Set both clocks by NTP.")
    return _ok(f"{says}.")


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
        return _ok(f"{jobs} does not exist yet: nothing was ever sent here.")
    for reply in (stream, groups):
        if isinstance(reply, Exception):
            raise reply
    waiting = stream["length"]
    group = next((each for each in groups if each["name"] in (INTAKE_GROUP, INTAKE_GROUP.encode())), None)
    if group is None:
        return _warn(f"No worker has read {jobs} yet; waiting: {waiting}. Start one.")
    if group.get("entries-read") is None or "entries-added" not in stream:
        return _ok(f"{jobs} waiting: {waiting}; this server does not count lost entries.")
    lost = stream["entries-added"] - group["entries-read"] + group["pending"] - waiting
    if lost > 0:
        says = f"Entries of {jobs} that vanished before they were accepted: {lost}"
        return _fail(f"{says}. Send without MAXLEN and MINID, and never XTRIM or XDEL it.")
    return _ok(f"{jobs} has lost nothing; waiting: {waiting}.")


async def check_storage(
    open_store: Callable[[], ResultStore], server_s: Callable[[], Awaitable[float]] | None = None
) -> Finding:
    """Whether an object can be written, read and deleted, and whether the store's clock is right.

    `server_s` is the clock of Redis, in Unix seconds: workers compare the two. Without one that answers, the clock of
    this machine stands in.
    """
    try:
        store = open_store()
        written_s = (await store.check()).timestamp()
        now_s, whose = await _reference(server_s)
        await store.aclose()
    except StorageError as error:
        says = str(error)
        # A whole sentence has its own advice, or needs none.
        return _fail(
            says if says.endswith(".") else f"{says}. Is the path, or the cloud's credential, right?"
        )
    apart_s = written_s - now_s
    if abs(apart_s) > STORE_CLOCK_WARN_S:
        side = "ahead of" if apart_s > 0 else "behind"
        return _warn(
            f"The store's clock is {abs(apart_s):.0f} s {side} that of {whose}: set both by NTP. The age of a stored "
            "picture decides whether it is found after a crash."
        )
    return _ok("Pictures can be written and read.")


async def server_time_s(client: Redis) -> float:
    """The clock of Redis, in Unix seconds."""
    whole, micros = await client.time()
    return int(whole) + int(micros) / 1e6


async def _reference(server_s: Callable[[], Awaitable[float]] | None) -> tuple[float, str]:
    if server_s is not None:
        try:
            async with asyncio.timeout(SERVER_TIME_S):
                return await server_s(), "Redis"
        except (RedisError, TimeoutError, *CONNECTION_FAULTS):
            pass  # the lines about Redis have the reason
    return time.time(), "this machine"


def credential_checks(
    credentials: Mapping[str, Credential], routes: Mapping[str, Route], environ: Mapping[str, str]
) -> dict[str, Check]:
    """A check for each credential: its secret is there, and its provider accepts it, if that test is free.

    Where the test shows the provider's models, those of the credential's routes must be among them.
    """
    models = {
        name: sorted({route.model for route in routes.values() if route.credential == name})
        for name in credentials
    }
    return {
        f"credential {name}": partial(_credential, credential, models[name], environ)
        for name, credential in credentials.items()
    }


def provider_of(credential: Credential, environ: Mapping[str, str]) -> Provider:
    """The provider of a credential; nothing is sent.

    Raises SettingsError for a secret that is not here, ValueError for a value that the provider refuses.
    """
    return create_provider(
        credential.provider,
        base_url=credential.base_url,
        secrets=credential.resolve(environ),
        options=credential.provider_options(),
    )


async def _credential(credential: Credential, models: Collection[str], environ: Mapping[str, str]) -> Finding:
    try:
        provider = provider_of(credential, environ)
    except (SettingsError, ValueError) as error:
        return _fail(str(error))
    try:
        if not isinstance(provider, ChecksCredential):
            return _ok(f"The secret is there; {provider.name} has no request that is free.")
        found = await provider.check_credential(timeout_s=CHECK_TIMEOUT_S - 5)
    finally:
        await provider.aclose()
    if found.models and (unknown := [model for model in models if model not in found.models]):
        names = " ".join(f"It lists no {model}.{nearest_hint(model, found.models)}" for model in unknown)
        return _warn(f"{found.says} {names} A job would fail, unless the provider serves more than it lists.")
    return Finding("", {None: State.WARN, True: State.OK, False: State.FAIL}[found.good], found.says)


_ok, _warn, _fail = (partial(Finding, "", state) for state in (State.OK, State.WARN, State.FAIL))
