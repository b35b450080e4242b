"""The file of callers' keys: names, tenants, scopes and hashes, never a key itself.

A key is `pxm_` and 32 random bytes. A random key needs no slow hash: nobody can try 2^256 keys. The file is replaced as
a whole, so a reader never sees a half-written one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from daemon.gateway.callers.scopes import Scope
from daemon.settings import SettingsError
from pixmill.contract.fields import Ident, Name

PREFIX: Final = "pxm_"
FORM: Final = re.compile(r"pxm_[A-Za-z0-9_-]{43}")
MODE: Final = 0o600


class Key(BaseModel):
    """One key: its owner's name, what it may do, and the sha256 of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Name
    tenant: Ident
    scopes: frozenset[Scope] = Field(min_length=1)
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    created_at: datetime


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    keys: list[Key]


def digest(key: str) -> str:
    """The sha256 of a key, as the file has it."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path) -> list[Key]:
    """The keys in a file. Raises SettingsError with a sentence when it is missing, unreadable or malformed."""
    try:
        return _File.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        raise SettingsError(
            [f"gateway.keys_file {path} is not there; `pixmill key new NAME` makes it."]
        ) from None
    except OSError as error:
        raise SettingsError([f"gateway.keys_file {path} cannot be read: {error.strerror}."]) from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        at = ".".join(map(str, first["loc"])) or "the file"
        raise SettingsError([f"gateway.keys_file {path}: {at}: {first['msg']}."]) from None


def open_to_others(path: Path) -> str | None:
    """The sentence about a file that every user of this machine may read, with the remedy; None if there is none.

    The hashes give no key away, but names and tenants are nobody else's business. Raises OSError.
    """
    way_in = all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)
    if not way_in or not path.stat().st_mode & 0o004:
        return None
    return f"gateway.keys_file {path} can be read by every user of this machine: `chmod o-rwx {path}`."


def add_key(path: Path, name: str, tenant: str, scopes: frozenset[Scope]) -> str:
    """Make a key and return it: this is the only time that anybody sees it.

    Raises SettingsError for a name that is taken or malformed, and for a file that cannot be written.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    try:
        made = Key(name=name, tenant=tenant, scopes=scopes, sha256=digest(key), created_at=datetime.now(UTC))
    except ValidationError as error:
        wrong = error.errors(include_input=False)[0]["loc"][0]
        raise SettingsError([f"A key's {wrong} is 1 to 64 letters, digits, `.`, `_` or `-`."]) from None
    with _changed(path) as keys:
        if any(known.name == name for known in keys):
            raise SettingsError(
                [f'There is a key named "{name}" already; revoke it, or choose another name.']
            )
        keys.append(made)
    return key


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of the file; gateways notice at once. Raises SettingsError for an unknown name."""
    with _changed(path) as keys:
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            raise SettingsError([f'There is no key named "{name}" in {path}.'])
        keys[:] = left


@contextmanager
def _changed(path: Path) -> Iterator[list[Key]]:
    """The keys of the file, to be changed; two writers at once wait for each other."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.parent / f".{path.name}.lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, MODE)
    except OSError as error:
        raise SettingsError([f"gateway.keys_file {path} cannot be written: {error.strerror}."]) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = read_keys(path) if path.exists() else []
        yield keys
        _replace(path, _File(keys=keys).model_dump_json(indent=2).encode())
    finally:
        os.close(lock)


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # An owner or a mode that the operator chose, so that another user's gateway may read it, stays.
        mode = path.stat().st_mode & 0o777 if path.exists() else MODE
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SettingsError([f"gateway.keys_file {path} cannot be written: {error.strerror}."]) from None
