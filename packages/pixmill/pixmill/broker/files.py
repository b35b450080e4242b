"""Looks for files that a person has named."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def is_file(path: str | Path) -> bool:
    """Whether a file is there for us. A name that is too long, or a folder that we may not enter, has none."""
    with suppress(OSError, ValueError):
        return Path(path).is_file()
    return False
