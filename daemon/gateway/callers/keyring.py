"""Finds the caller of a request by its key or its session. Without keys, only this machine is served, and needs none.

The file of keys is read again when it changes, so a key is given out or revoked without a restart. A browser trades its
key for a session in a cookie, since an event source and a picture cannot send a header. A session is signed with the
hash of its key and with a secret in Redis: it ends with that key, every gateway of the fleet knows it, and the file of
keys alone makes none.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import structlog
from fastapi import Request
from redis.asyncio import Redis
from redis.exceptions import RedisError

from daemon.gateway.answering.problems import Problem
from daemon.gateway.callers.access import LOCAL, Caller
from daemon.gateway.callers.keys_file import Key, digest, read_keys
from daemon.settings import SettingsError

log = structlog.get_logger(__name__)

COOKIE: Final = "pixmill_session"
SESSION_S: Final = 12 * 3600
LINK: Final = "link"  # the parameter of an address that needs no key
LINK_S: Final = 3600
SCHEMES: Final = ("bearer", "key")  # the second is what clients of fal send

_SESSION: Final = "session"
_SEAL_BYTES: Final = 32
_SEAL_READ_S: Final = 10.0  # a Redis that was emptied has another one
_Stamp = tuple[int, int, int]


class Seal:
    """The random secret of the installation. All gateways share it, and the first that needs it makes it."""

    def __init__(self, client: Redis, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._name = name
        self._clock = clock
        self._known: bytes | None = None
        self._read_at_s = 0.0

    async def read(self) -> bytes:
        """The secret. While Redis is away the known one counts; raises RedisError if none is known."""
        if self._known is None or self._clock() - self._read_at_s > _SEAL_READ_S:
            try:
                self._known = await self._stored()
            except (RedisError, OSError):
                if self._known is None:
                    raise
            self._read_at_s = self._clock()
        return self._known

    async def _stored(self) -> bytes:
        found: Any = await self._client.get(self._name)
        if found is None:
            made = secrets.token_bytes(_SEAL_BYTES)
            await self._client.set(self._name, made, nx=True)
            found = await self._client.get(self._name)
        return bytes(found)


class KeyRing:
    """The keys of `gateway.keys_file`; None: no keys. Raises SettingsError for a file that cannot be used at first."""

    def __init__(self, path: Path | None, seal: Seal, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._seal = seal
        self._clock = clock
        self._stamp: _Stamp | None = None
        self._by_digest: Mapping[str, Key] = {}
        self._by_name: Mapping[str, Key] = {}
        if path is not None:
            self._stamp = _stamp(path)  # before it is read: a change in between is read again
            self._take(read_keys(path))

    @property
    def is_open(self) -> bool:
        """Whether no key is needed, since only this machine is served."""
        return self._path is None

    async def caller_of(self, request: Request) -> Caller:
        """The caller of a request. Raises Problem 401 without a valid key or session; RedisError for a session."""
        if self._path is None:
            return LOCAL
        self._read_again(self._path)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme:
            key = self._by_key(given.strip()) if scheme.lower() in SCHEMES else None
        elif (passed := request.query_params.get(LINK)) is not None and request.method in ("GET", "HEAD"):
            return await self._caller_by_link(request, passed)
        else:
            key = await self._by_session(request.cookies.get(COOKIE, ""))
        if key is None:
            raise _unauthorized()
        return Caller(key.name, key.tenant, key.scopes)

    async def session_for(self, given: str) -> str:
        """The cookie of a new session, for the owner of a key. Raises Problem 401 for a wrong key."""
        if self._path is None:
            return ""
        self._read_again(self._path)
        key = self._by_key(given)
        if key is None:
            raise _unauthorized()
        return await self._signed(key, _SESSION, SESSION_S)

    async def link_for(self, caller: Caller, address: str) -> str:
        """An address of a picture that works without a key for an hour, for those who just open it."""
        key = self._by_name.get(caller.name)
        if key is None:
            return address
        parts = urlsplit(address)
        query = parse_qsl(parts.query)
        what = _linked(parts.path, dict(query).get("tenant"))
        query.append((LINK, await self._signed(key, what, LINK_S)))
        return urlunsplit(parts._replace(query=urlencode(query)))

    async def _caller_by_link(self, request: Request, passed: str) -> Caller:
        """A caller with a link may read what its address names, in the tenant that was signed, and nothing else."""
        tenant = request.query_params.get("tenant")
        key = await self._by_signature(passed, _linked(request.scope["path"], tenant), LINK_S)
        if key is None:
            raise _unauthorized()
        return Caller(key.name, key.tenant if tenant is None else tenant, frozenset({"read"}))

    async def _signed(self, key: Key, what: str, lasts_s: float) -> str:
        ends_s = str(int(self._clock() + lasts_s))
        return f"{key.name}~{ends_s}~{_signature(key, await self._seal.read(), ends_s, what)}"

    def _by_key(self, given: str) -> Key | None:
        sha256 = digest(given)
        key = self._by_digest.get(sha256)
        return key if key is not None and hmac.compare_digest(key.sha256, sha256) else None

    async def _by_session(self, cookie: str) -> Key | None:
        return await self._by_signature(cookie, _SESSION, SESSION_S)

    async def _by_signature(self, text: str, what: str, most_s: float) -> Key | None:
        """The key that signed `what`; None also for a signature that lasts longer than `most_s`, which nobody gives."""
        name, _, rest = text.partition("~")
        ends_s, _, signature = rest.partition("~")
        key = self._by_name.get(name)
        if key is None or not re.fullmatch(r"\d{1,15}", ends_s, re.ASCII):
            return None
        if not 0 < int(ends_s) - self._clock() <= most_s:
            return None
        wanted = _signature(key, await self._seal.read(), ends_s, what).encode()
        return key if hmac.compare_digest(signature.encode("utf-8", "replace"), wanted) else None

    def _read_again(self, path: Path) -> None:
        """Read the file if it has changed. One that cannot be read leaves the known keys in force."""
        stamp = _stamp(path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(read_keys(path))
        except SettingsError as error:
            log.error("the keys cannot be read again; the known ones stay in force", problem=str(error))  # noqa: TRY400 - the sentence has all of it
        else:
            log.info("the keys were read again", keys=len(self._by_name))

    def _take(self, keys: list[Key]) -> None:
        self._by_digest = {key.sha256: key for key in keys}
        self._by_name = {key.name: key for key in keys}


def _below_root(path: str) -> str:
    """The path without the prefix under which the app is mounted."""
    return path[max(0, path.find("/v1/")) :]


def _linked(path: str, tenant: str | None) -> str:
    """The text that a link signs. `thumb` and `inline` stay open: they choose a form of the same picture."""
    return f"{_below_root(path)}\n{'' if tenant is None else tenant}"


def _signature(key: Key, seal: bytes, ends_s: str, what: str) -> str:
    text = f"pixmill {what} {key.name} {ends_s}".encode("utf-8", "surrogatepass")
    return hmac.new(bytes.fromhex(key.sha256) + seal, text, hashlib.sha256).hexdigest()


def _stamp(path: Path) -> _Stamp | None:
    try:
        info = os.stat(path)  # noqa: PTH116 - once a request
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size, info.st_ino


def _unauthorized() -> Problem:
    return Problem(
        401,
        "unauthorized",
        "Send a valid key as `Authorization: Bearer pxm_...`.",
        headers={"WWW-Authenticate": "Bearer"},
    )
