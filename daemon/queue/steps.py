"""The queue's scripts by name: one atomic step each, in daemon/scripts; their one key is the installation's prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from limiter.lua import LuaScript

_SCRIPTS_DIR = Path(__file__).parent / "scripts"
_SCRIPTS = {
    name: LuaScript.load(_SCRIPTS_DIR, f"{caller}/{name}")
    for caller, names in {
        "intake": ("accept", "open_batch", "refuse", "done", "cancel", "retry", "resend"),
        "worker": ("claim", "permitted", "note", "answer", "settle"),
        "maintenance": (
            "renew",
            "reclaim",
            "due",
            "progress",
            "forget",
            "close_groups",
            "probe",
            "leave",
        ),
        "outbox": ("outbox_take", "outbox_settle", "outbox_again"),
        "pauses": ("pause", "resume"),
    }.items()
    for name in names
}


class Steps:
    """Calls a script by its name. Errors: whatever the Redis client raises; nothing is sent twice."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def __call__(self, script: str, *args: str | bytes | int | float) -> Any:
        """What the script returns, as its header says."""
        return await _SCRIPTS[script](self._client, [self._prefix], args)
