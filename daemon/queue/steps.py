"""Calls the queue's scripts by name. Each is one atomic step in the folder `scripts`; its one key is the prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from redis.asyncio import Redis

from limiter.script import LuaScript

_SCRIPTS_DIR = Path(__file__).parent / "scripts"
_SCRIPTS = {
    path.stem: LuaScript.load(_SCRIPTS_DIR, f"{path.parent.name}/{path.stem}")
    for path in _SCRIPTS_DIR.glob("*/*.lua")
    if path.parent.name != "include"
}


class Steps:
    """Calls a script by its name. Errors: those of the Redis client; nothing is sent twice."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def __call__(self, script: str, *raw: str | bytes, **arguments: Any) -> Any:
        """Returns the reply that the script's header describes. Arguments of None are left out; `raw` may be binary."""
        given = {name: value for name, value in arguments.items() if value is not None}
        text = orjson.dumps(given, default=bytes.decode)
        return await _SCRIPTS[script](self._client, [self._prefix], [text, *raw])
