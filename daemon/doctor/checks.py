"""Is everything that the daemon stands on fit for work? Each check is one line: how it is, and what to do about it.

Nothing here costs money, and nothing stays behind: the store gets one small object, which is deleted again.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from daemon.broker.errors import CONNECTION_FAULTS, in_words
from daemon.doctor.permissions import missing
from daemon.queue.keys import INTAKE_GROUP, Keys
from daemon.queue.steps import Steps
from daemon.settings import Credential, SettingsError
from daemon.storage.object_store import ResultStore, StorageError
from providers.base import ChecksCredential, CredentialCheck, Provider
from providers.errors import redact
from providers.registry import create_provider

log = structlog.get_logger(__name__)

OLDEST_REDIS = (6, 2)
CLOCK_WARN_S = 1.0
CLOCK_FAIL_S = 60.0
CHECK_TIMEOUT_S = 15.0


class State(StrEnum):
    """How a check came out. A warning is no fault yet, or what could not be told."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer: which check, how it came out, and a sentence that says what to do where it matters."""

    check: str
    state: State
    says: str

    def as_dict(self) -> dict[str, str]:
        """For JSON answers."""
        return {"check": self.check, "state": self.state.value, "says": self.says}


Check = Callable[[], Awaitable[Finding]]


async def examine(checks: Mapping[str, Check], *, timeout_s: float = CHECK_TIMEOUT_S) -> list[Finding]:
    """All findings in the order of `checks`, which run side by side; a check that breaks is a finding, too."""
    return list(await asyncio.gather(*(_guarded(name, check, timeout_s) for name, check in checks.items())))


async def _guarded(name: str, check: Check, timeout_s: float) -> Finding:
    try:
        async with asyncio.timeout(timeout_s):
            return await check()
    except TimeoutError:
        return Finding(name, State.FAIL, f"No answer within {timeout_s:g} s.")
    except ResponseError as error:
        said = redact(str(error))
        return Finding(name, State.WARN, f"Redis does not tell ({said}). Does the ACL of its user allow it?")
    except (RedisError, *CONNECTION_FAULTS) as error:
        return Finding(name, State.FAIL, f"Redis does not answer ({redact(str(error))}).")
    except Exception as error:
        log.exception("a check of the doctor broke", check=name)
        return Finding(
            name, State.FAIL, f"The check itself broke ({type(error).__name__}); the log has details."
        )


async def unreachable(client: Redis, shown_url: str) -> Finding | None:
    """Why Redis cannot be used at all, in which case no other question about it has an answer; None if it can."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await client.ping()
    except AuthenticationError as error:
        said = f"{shown_url} refuses us ({redact(str(error))}): are user and password in `redis.url` right?"
    except NoPermissionError:
        return None
    except (RedisError, *CONNECTION_FAULTS) as error:
        said = f"{shown_url} does not answer ({redact(str(error))}). Is it running, and is `redis.url` right?"
    else:
        return None
    return Finding("redis", State.FAIL, said)


def redis_checks(client: Redis, keys: Keys, *, now_s: Callable[[], float] = time.time) -> dict[str, Check]:
    """Version, persistence, eviction, scripts, writes, permissions, clock, and whether the jobs stream lost entries."""
    return {
        "redis": lambda: _version(client),
        "aof": lambda: _persistence(client),
        "eviction": lambda: _eviction(client),
        "scripts": lambda: _scripts(client),
        "writes": lambda: _writes(client, keys),
        "acl": lambda: _permissions(client, keys),
        "clock": lambda: _clock(client, now_s),
        "jobs": lambda: _jobs(client, keys.jobs),
    }


async def _version(client: Redis) -> Finding:
    info: Any = await client.info("server")
    name = str(info.get("server_name") or "redis").capitalize()
    shown = str(info.get("valkey_version") or info.get("redis_version") or "")
    speaks = tuple(int(part) for part in re.findall(r"\d+", str(info.get("redis_version", "")))[:2])
    if not speaks:
        return Finding(
            "redis", State.WARN, f"{name} does not tell its version; it must be as Redis 6.2 or newer."
        )
    if speaks < OLDEST_REDIS:
        return Finding("redis", State.FAIL, f"{name} {shown} is too old: use Redis 6.2 or newer, or Valkey.")
    return Finding("redis", State.OK, f"{name} {shown}.")


async def _persistence(client: Redis) -> Finding:
    info: Any = {**await client.info("persistence"), **await client.info("replication")}
    if "aof_enabled" not in info:
        return Finding("aof", State.WARN, "This server does not tell whether it keeps an append-only file.")
    if info["aof_enabled"] and info.get("aof_last_write_status", "ok") != "ok":
        return Finding(
            "aof", State.FAIL, "The append-only file cannot be written: look at the server's disk."
        )
    if info["aof_enabled"]:
        return Finding("aof", State.OK, "The append-only file is on.")
    advice = "set `appendonly yes`; the queue, receipts of paid tasks and quotas are lost with the server otherwise."
    if info.get("connected_slaves"):
        return Finding("aof", State.WARN, f"Only replicas keep what is written: {advice}")
    return Finding("aof", State.FAIL, f"Nothing is kept over a restart: {advice}")


async def _eviction(client: Redis) -> Finding:
    info: Any = await client.info("memory")
    policy = info.get("maxmemory_policy")
    if policy is None:
        return Finding(
            "eviction", State.WARN, "This server does not tell its maxmemory-policy; it must be noeviction."
        )
    if policy == "noeviction":
        return Finding("eviction", State.OK, "maxmemory-policy is noeviction.")
    advice = "set `maxmemory-policy noeviction`: this is a queue, not a cache."
    if not info.get("maxmemory"):
        return Finding(
            "eviction", State.WARN, f"maxmemory-policy is {policy}, without a limit as yet: {advice}"
        )
    return Finding("eviction", State.FAIL, f"maxmemory-policy is {policy}, which deletes jobs: {advice}")


async def _scripts(client: Redis) -> Finding:
    try:
        await client.eval("return redis.call('TIME')[1]", 0)
    except ResponseError as error:
        said = redact(str(error))
        return Finding(
            "scripts",
            State.FAIL,
            f"Scripts are refused ({said}): allow EVAL and EVALSHA, in the ACL and in any proxy.",
        )
    return Finding("scripts", State.OK, "Scripts run.")


async def _writes(client: Redis, keys: Keys) -> Finding:
    try:
        await Steps(client, keys.prefix)("probe")
    except ResponseError as error:
        return Finding("writes", State.FAIL, in_words(error))
    return Finding("writes", State.OK, "Redis takes our writes.")


async def _permissions(client: Redis, keys: Keys) -> Finding:
    if names := await missing(client, keys):
        said = f"The ACL of our user in `redis.url` lacks what a worker needs: {', '.join(names)}"
        return Finding("acl", State.FAIL, f"{said}. deploy/redis/users.acl grants all of it.")
    return Finding("acl", State.OK, "The user in `redis.url` may do all that a worker does.")


async def _clock(client: Redis, now_s: Callable[[], float]) -> Finding:
    before_s = now_s()
    seconds, micros = await client.time()
    after_s = now_s()
    # It was read somewhere between the two.
    apart_s = int(seconds) + int(micros) / 1e6 - (before_s + after_s) / 2
    doubt_s = (after_s - before_s) / 2
    said = f"Redis is {abs(apart_s):.3f} s {'ahead of' if apart_s > 0 else 'behind'} this machine (± {doubt_s:.3f} s)"
    if abs(apart_s) - doubt_s > CLOCK_FAIL_S:
        return Finding("clock", State.FAIL, f"{said}: signatures and deadlines fail. Set both clocks by NTP.")
    if abs(apart_s) - doubt_s > CLOCK_WARN_S:
        return Finding("clock", State.WARN, f"{said}: deadlines are off by as much. Set both clocks by NTP.")
    return Finding("clock", State.OK, f"{said}.")


async def _jobs(client: Redis, jobs: str) -> Finding:
    """Entries that were added, and are neither read nor there: whoever trims the stream deletes work.

    Every entry that was read and ended is deleted by its reader, so what is there is pending or unread. Both answers
    belong to one moment, or a job that arrives between them would look lost.
    """
    async with client.pipeline(transaction=True) as pipe:
        pipe.xinfo_stream(jobs)
        pipe.xinfo_groups(jobs)
        stream, groups = await pipe.execute(raise_on_error=False)
    if isinstance(stream, ResponseError) and "no such key" in str(stream).lower():
        return Finding("jobs", State.OK, f"{jobs} does not exist yet: nothing was ever sent here.")
    for answer in (stream, groups):
        if isinstance(answer, Exception):
            raise answer
    group = next((each for each in groups if each["name"] in (INTAKE_GROUP, INTAKE_GROUP.encode())), None)
    if group is None:
        waiting = stream["length"]
        return Finding("jobs", State.WARN, f"No worker has read {jobs} yet; waiting: {waiting}. Start one.")
    if group.get("entries-read") is None or "entries-added" not in stream:
        return Finding(
            "jobs",
            State.OK,
            f"{jobs} waiting: {stream['length']}; this server cannot tell whether any were lost.",
        )
    lost = stream["entries-added"] - group["entries-read"] + group["pending"] - stream["length"]
    if lost > 0:
        said = f"Entries of {jobs} that vanished before they were accepted: {lost}"
        return Finding(
            "jobs", State.FAIL, f"{said}. Send without MAXLEN and MINID, and never XTRIM or XDEL it."
        )
    return Finding("jobs", State.OK, f"{jobs} has lost nothing; waiting: {stream['length']}.")


async def check_storage(open_store: Callable[[], ResultStore]) -> Finding:
    """Whether an object can be written, read and deleted."""
    try:
        store = open_store()
        await store.check()
        await store.aclose()
    except StorageError as error:
        return Finding("storage", State.FAIL, f"{error} Is the path, or the cloud's credential, right?")
    return Finding("storage", State.OK, "Pictures can be written and read.")


def credential_checks(credentials: Mapping[str, Credential], environ: Mapping[str, str]) -> dict[str, Check]:
    """A check for each credential: is its secret there, and does its provider accept it, where asking is free."""

    def check(name: str, credential: Credential) -> Check:
        return lambda: _credential(f"credential {name}", credential, environ)

    return {f"credential {name}": check(name, credential) for name, credential in credentials.items()}


async def _credential(name: str, credential: Credential, environ: Mapping[str, str]) -> Finding:
    try:
        provider = create_provider(
            credential.provider,
            base_url=credential.base_url,
            secrets=credential.resolve(environ),
            options=credential.provider_options(),
        )
    except (SettingsError, ValueError) as error:
        return Finding(name, State.FAIL, str(error))
    try:
        found = await _asked(provider)
    finally:
        await provider.aclose()
    state = State.WARN if found.good is None else State.OK if found.good else State.FAIL
    return Finding(name, state, found.says)


async def _asked(provider: Provider) -> CredentialCheck:
    if not isinstance(provider, ChecksCredential):
        return CredentialCheck(True, f"The secret is there; {provider.name} has nothing that is free to ask.")
    return await provider.check_credential(timeout_s=CHECK_TIMEOUT_S - 5)
