"""Finds the caller of a request by its key or its session. Without keys, only this machine is served, and needs none.

The file of keys is read again when it changes, so a key is given out or revoked without a restart. A browser trades its
key for a session in a cookie, since an event source and a picture cannot send a header. A session is signed with the
hash of its key: it ends with that key, and every gateway of the fleet knows it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import structlog
from fastapi import Request

from daemon.gateway.access import LOCAL, Caller
from daemon.gateway.keys_file import Key, digest, read_keys
from daemon.gateway.problems import Problem
from daemon.settings import SettingsError

log = structlog.get_logger(__name__)

COOKIE: Final = "pixmill_session"
SESSION_S: Final = 12 * 3600
LINK: Final = "link"  # the parameter of an address that needs no key
SCHEMES: Final = ("bearer", "key")  # the second is what clients of fal send

_SESSION: Final = "session"
_Stamp = tuple[int, int, int]


class KeyRing:
    """The keys of `gateway.keys_file`; None: no keys. Raises SettingsError for a file that cannot be used at first."""

    def __init__(self, path: Path | None, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._stamp: _Stamp | None = None
        self._by_digest: Mapping[str, Key] = {}
        self._by_name: Mapping[str, Key] = {}
        if path is not None:
            self._take(read_keys(path))
            self._stamp = _stamp(path)

    @property
    def is_open(self) -> bool:
        """Whether no key is needed, since only this machine is served."""
        return self._path is None

    def caller_of(self, request: Request) -> Caller:
        """The caller of a request. Raises Problem 401 without a valid key or session."""
        if self._path is None:
            return LOCAL
        self._read_again(self._path)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme:
            key = self._by_key(given.strip()) if scheme.lower() in SCHEMES else None
        elif (passed := request.query_params.get(LINK)) is not None and request.method in ("GET", "HEAD"):
            key = self._by_signature(passed, _below_root(request.url.path))
        else:
            key = self._by_session(request.cookies.get(COOKIE, ""))
        if key is None:
            raise _unauthorized()
        return _caller(key)

    def session_for(self, given: str) -> str:
        """The cookie of a new session, for the owner of a key. Raises Problem 401 for a wrong key."""
        if self._path is None:
            return ""
        self._read_again(self._path)
        key = self._by_key(given)
        if key is None:
            raise _unauthorized()
        return self._signed(key, _SESSION, SESSION_S)

    def link_for(self, caller: Caller, address: str, lasts_s: float) -> str:
        """An address of a picture that works without a key for some time, for those who just open it."""
        key = self._by_name.get(caller.name)
        if key is None:
            return address
        parts = urlsplit(address)
        query = [*parse_qsl(parts.query), (LINK, self._signed(key, _below_root(parts.path), lasts_s))]
        return urlunsplit(parts._replace(query=urlencode(query)))

    def _signed(self, key: Key, what: str, lasts_s: float) -> str:
        ends_s = str(int(self._clock() + lasts_s))
        return f"{key.name}~{ends_s}~{_signature(key, ends_s, what)}"

    def _by_key(self, given: str) -> Key | None:
        key = self._by_digest.get(digest(given))
        return key if key is not None and hmac.compare_digest(key.sha256, digest(given)) else None

    def _by_session(self, cookie: str) -> Key | None:
        return self._by_signature(cookie, _SESSION)

    def _by_signature(self, text: str, what: str) -> Key | None:
        name, _, rest = text.partition("~")
        ends_s, _, signature = rest.partition("~")
        key = self._by_name.get(name)
        if key is None or not ends_s.isascii() or not ends_s.isdigit() or int(ends_s[:15]) <= self._clock():
            return None
        wanted = _signature(key, ends_s, what).encode()
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


def _caller(key: Key) -> Caller:
    return Caller(key.name, key.tenant, key.scopes)


def _below_root(path: str) -> str:
    """The path without the prefix under which the app is mounted."""
    return path[max(0, path.find("/v1/")) :]


def _signature(key: Key, ends_s: str, what: str) -> str:
    text = f"pixmill {what} {key.name} {ends_s}".encode()
    return hmac.new(bytes.fromhex(key.sha256), text, hashlib.sha256).hexdigest()


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
