"""Keeps pictures in the object store: written once, under the same key for every run of an item.

A create-only put makes a picture exist exactly once; the settle and the acknowledgement come after it.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError
from obstore.store import LocalStore, from_url

from daemon.settings import masked_url
from daemon.storage.failures import bucket_missing, first_line, reason_of
from pixmill.broker.backoff import full_jitter_s

TRIES: Final = 3
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0  # bounds of a random wait between tries
RETRIES: Final = {"max_retries": 1, "retry_timeout": timedelta(seconds=10)}  # inside one try
SETTLE_S: Final = 0.05
DELETED_AT_ONCE: Final = 16
REMEMBERED: Final = 1000  # directories that are known to be on the disk

T = TypeVar("T")


class StorageError(Exception):
    """The object store cannot be used; the message is a sentence without credentials."""


@dataclass(frozen=True, slots=True)
class Stored:
    """`created` is False when an earlier run had stored the picture; that one stands."""

    key: str
    created: bool


def object_key(tenant: str, accepted_day: str, batch: str | None, item: str, extension: str) -> str:
    """The key of an item's picture: `{tenant}/{yyyymmdd}/{batch or "single"}/{item}.{ext}`.

    The day is that of the acceptance, so a run after midnight finds what an earlier one stored. Ids are made of
    letters, digits and `.` `_` `:` `-` and begin with a letter or digit, so a key cannot escape its directory.
    """
    return f"{tenant}/{accepted_day}/{batch or 'single'}/{item}.{extension}"


class ResultStore:
    """One store: a local directory, S3, GCS, Azure, or memory (for tests and benchmarks)."""

    def __init__(self, store: Any, url: str) -> None:
        self._store = store
        self._url = url.rstrip("/")
        self._root = Path(_local_path(url)) if url.startswith("file:") else None
        self._was_used = False
        self._reachable: set[Path] = set()  # directories whose path from the root is on the disk

    @classmethod
    def open(cls, url: str) -> ResultStore:
        """A store for `file:///dir`, `s3://bucket/prefix`, `gs://`, `az://` or `memory://`.

        Credentials of the clouds come from their own environment variables. Raises StorageError.
        """
        try:
            if url.startswith("file:"):
                return cls(LocalStore(_prepared_root(url), mkdir=True), url)
            endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
            # obstore would retry by itself for three minutes, and hide that the store fails.
            options: dict[str, Any] = {} if url.startswith("memory:") else {"retry_config": RETRIES}
            if url.startswith("s3:") and endpoint.startswith("http:"):
                options["client_options"] = {"allow_http": True}
            return cls(from_url("memory:///" if url.startswith("memory:") else url, **options), url)
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise StorageError(
                f"storage.url {masked_url(url)} cannot be used: {first_line(error)}"
            ) from error

    async def put_image(self, key: str, data: bytes) -> Stored:
        """Write a picture unless its key exists. Raises StorageError when the store fails `TRIES` times.

        A local file is on the disk, not only in its cache, when this returns: the acknowledgement follows.
        """
        try:
            await self._tried(lambda: obstore.put_async(self._store, key, data, mode="create"))
            created = True
        except AlreadyExistsError:
            created = False
        # Sync an older picture too: the run that wrote it may have died before it was on the disk.
        await self._synced(key)
        return Stored(key, created)

    async def replace(self, key: str, data: bytes) -> None:
        """Overwrite an object that is no picture, such as a file damaged by a power cut. Raises StorageError."""
        await self._tried(lambda: obstore.put_async(self._store, key, data, mode="overwrite"))
        await self._synced(key)

    async def get(self, key: str) -> bytes | None:
        """The object's bytes; None if there is no such object. Raises StorageError."""
        found = await self.get_dated(key)
        return None if found is None else found[0]

    async def get_dated(self, key: str) -> tuple[bytes, datetime] | None:
        """The object's bytes and when it was written, by the store's clock; None if there is no such object.

        Raises StorageError.
        """
        try:
            return await self._read(key)
        except StorageError as error:
            if not isinstance(error.__cause__, PermissionDeniedError):
                raise
        # S3 refuses a missing object to a credential that may not list the bucket; a probe shows that it may read.
        await self.check()
        return None

    async def _read(self, key: str) -> tuple[bytes, datetime] | None:
        async def read() -> tuple[bytes, datetime] | None:
            try:
                answer = await obstore.get_async(self._store, key)
            except FileNotFoundError as error:
                if bucket_missing(error):
                    raise
                return None
            return bytes(await answer.bytes_async()), answer.meta["last_modified"]

        return await self._tried(read)

    async def exists(self, key: str) -> bool:
        """Whether there is such an object. Raises StorageError."""

        async def look() -> bool:
            try:
                await obstore.head_async(self._store, key)
            except FileNotFoundError as error:
                if bucket_missing(error):
                    raise
                return False
            return True

        return await self._tried(look)

    async def link(self, key: str, lasts: timedelta) -> str | None:
        """An address that gives the object to everybody for a time; None for a store that has no such addresses.

        Raises StorageError.
        """
        if self._root is not None or self._url.startswith("memory:"):
            return None
        signed = await self._tried(lambda: obstore.sign_async(self._store, "GET", key, lasts))
        return str(signed)

    async def delete(self, keys: Collection[str]) -> None:
        """Delete objects; those that do not exist count as deleted. Raises StorageError; then call it again."""
        names = list(keys)
        for start in range(0, len(names), DELETED_AT_ONCE):
            await asyncio.gather(*map(self._delete, names[start : start + DELETED_AT_ONCE]))

    async def _delete(self, key: str) -> None:
        async def delete() -> None:
            try:
                await obstore.delete_async(self._store, key)
            except FileNotFoundError as error:
                if bucket_missing(error):
                    raise

        await self._tried(delete)

    def url_for(self, key: str) -> str:
        """The object's address in the store, as people and other tools name it."""
        return f"{self._url}/{key}"

    async def check(self, size: int = 0) -> datetime:
        """Write, read and delete an object of `size` bytes, or a small one. Raises StorageError.

        A full disk may take a small object although it takes no picture. Returns when the object was written, by the
        store's clock; many stores count whole seconds.
        """
        probe, content = f".pixmill-check-{os.getpid()}-{os.urandom(4).hex()}", b"ok".ljust(size, b".")
        await self.put_image(probe, content)
        found = await self._read(probe)
        if found is None or found[0] != content:
            raise StorageError(f"{masked_url(self._url)} did not give back what was written to it.")
        await self._tried(lambda: obstore.delete_async(self._store, probe))
        return found[1]

    async def aclose(self) -> None:
        """Give the store's own threads a moment: obstore can abort a process that exits right after a call."""
        if self._was_used:
            await asyncio.sleep(SETTLE_S)

    async def _synced(self, key: str) -> None:
        if self._root is not None:
            await self._tried(partial(asyncio.to_thread, self._sync, self._root, key))

    def _sync(self, root: Path, key: str) -> None:
        """Sync a file and the directories above it to the disk; obstore leaves them in the system's cache."""
        path = root / key
        _fsync(path)
        _fsync(path.parent)
        if path.parent in self._reachable:
            return
        # Directories above it only gain an entry when a directory is new, so one sync of each is enough.
        for directory in path.parent.parents:
            if directory.is_relative_to(root):
                _fsync(directory)
        if len(self._reachable) >= REMEMBERED:
            self._reachable.clear()
        self._reachable.add(path.parent)

    async def _tried(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of `call`, which is made `TRIES` times at most. Raises StorageError, AlreadyExistsError."""
        self._was_used = True
        failures = 0
        while True:
            try:
                return await call()
            except AlreadyExistsError:
                raise
            except (obstore.exceptions.BaseError, OSError, ValueError) as error:
                failures += 1
                if failures == TRIES or isinstance(error, ValueError):
                    raise StorageError(f"{masked_url(self._url)}: {reason_of(error)}") from error
            await asyncio.sleep(full_jitter_s(failures - 1, FIRST_WAIT_S, LONGEST_WAIT_S))


def _prepared_root(url: str) -> Path:
    """The directory of a file URL, created if needed. Raises StorageError for a root that others could redirect."""
    root = Path(_local_path(url))
    if not root.is_absolute():
        raise StorageError(f"storage.url {url} must be absolute, such as file:///var/lib/pixmill/images.")
    root.mkdir(parents=True, exist_ok=True)
    info = root.lstat()
    if stat.S_ISLNK(info.st_mode) and info.st_uid not in (0, os.getuid()):
        # The owner of the link could send the pictures elsewhere.
        raise StorageError(
            f"{root} is a symbolic link that belongs to another user; use a directory of your own."
        )
    if not os.access(root, os.W_OK | os.X_OK):
        raise StorageError(f"{root} is not writable for this user.")
    return root


def _local_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise StorageError(f"storage.url {url} names a host; write file:///{parts.netloc}{parts.path}")
    return unquote(parts.path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
