"""Keys for tests."""

from __future__ import annotations

from pathlib import Path

from daemon.gateway.callers.keys_file import add_key
from daemon.gateway.callers.scopes import Scope

JOB = {"id": "k1", "prompt": "a kettle"}


def made(path: Path, name: str, *scopes: Scope, tenant: str = "shop") -> dict[str, str]:
    """The header of a new key."""
    return {"authorization": f"Bearer {add_key(path, name, tenant, frozenset(scopes))}"}
