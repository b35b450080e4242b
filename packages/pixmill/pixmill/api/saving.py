"""Writes pictures where their callers want them: new files only, and only below the folder that is meant."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path, PurePath

from pixmill.errors import OutputError

# File systems without hard links, such as FAT and some shares.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


def destination(path: str | os.PathLike[str], base: Path) -> Path:
    """The file that a caller means: a relative path below `base`, or an absolute one, never with `..`.

    Raises OutputError for a path with `..`, for a relative one that a link leads out of `base`, and for one that no
    file can have: text that the file system cannot write, or links in a circle.
    """
    given = PurePath(path)
    if ".." in given.parts or not given.name or "\0" in str(given):
        raise OutputError(f'The output path "{given}" must name a file, without `..`.')
    found = base / given  # an absolute one stays as it is
    try:
        os.fsencode(found)
        is_below = found.resolve().is_relative_to(base.resolve())
    except (OSError, RuntimeError, UnicodeError):
        name = str(given).encode("utf-8", "backslashreplace").decode()
        raise OutputError(f'The output path "{name}" is no file name here.') from None
    if not (given.is_absolute() or is_below):
        raise OutputError(f'The output path "{given}" leads out of {base}.')
    return found


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The format that the end of a name asks for; None for another end."""
    return FORMATS.get(PurePath(path).suffix.lower())


def write_new(path: Path, data: bytes) -> None:
    """Write a new file; the same bytes that are there already are a success. Raises OutputError, and replaces nothing.

    A file is there whole or not at all: it is written beside `path`, under a random name that no link can have.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                file.write(data)
            _link(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        if _holds(path, data):
            return
        if os.path.lexists(path):
            raise OutputError(f'"{path}" exists already, with other content; it was left as it is.') from None
        raise OutputError(f'"{path}" cannot be written: {error.strerror}.') from None


def _link(part: Path, path: Path) -> None:
    """Give a written file its name. Raises OSError if that is taken: a link replaces nothing, as a rename would."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(path):
            raise
        part.rename(path)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False
