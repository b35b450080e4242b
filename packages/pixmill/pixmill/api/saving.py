"""Writes pictures where their callers want them: new files only, and only below the folder that is meant."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path, PurePath

from pixmill.errors import OutputError

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


def destination(path: str | os.PathLike[str], base: Path) -> Path:
    """The file that a caller means: a relative path below `base`, or an absolute one, never with `..`.

    Raises OutputError for a path with `..`, and for a relative one that a link leads out of `base`.
    """
    given = PurePath(path)
    if ".." in given.parts or not given.name or "\0" in str(given):
        raise OutputError(f'The output path "{given}" must name a file, without `..`.')
    if given.is_absolute():
        return Path(given)
    found = base / given
    if not found.resolve().is_relative_to(base.resolve()):
        raise OutputError(f'The output path "{given}" leads out of {base}.')
    return found


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The format that the end of a name asks for; None for another end."""
    return FORMATS.get(PurePath(path).suffix.lower())


def write_new(path: Path, data: bytes) -> None:
    """Write a new file; the same bytes that are there already are a success. Raises OutputError, and replaces nothing.

    A file is there whole or not at all, unless the process is killed while it writes.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with path.open("xb") as file:
            try:
                file.write(data)
            except BaseException:
                with suppress(OSError):
                    path.unlink()
                raise
    except FileExistsError:
        if not _holds(path, data):
            raise OutputError(f'"{path}" exists already, with other content; it was left as it is.') from None
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f'"{path}" cannot be written: {error.strerror}.')


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False
