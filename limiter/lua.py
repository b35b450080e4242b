"""The one way scripts are called: a `.lua` file beside its caller becomes an awaitable object.

A script is called by its hash; a server that does not know it (first call, SCRIPT FLUSH, failover, restart)
is given the source in the same call. No other module handles NOSCRIPT.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError

_INCLUDE = re.compile(r"^-- @include (?P<name>[a-z0-9_]+)[ \t]*$", re.MULTILINE)


class LuaScript:
    """One atomic step on the server, called like a coroutine function.

    Errors: whatever the client raises; a script's own error keeps its text (`ResponseError`). A call is
    sent once by its hash and, only if the server did not know that and ran nothing, once by its source.
    """

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        # Redis identifies scripts by SHA-1; nothing is protected by it.
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, scripts: Path, name: str) -> LuaScript:
        """Read `{name}.lua` of the folder `scripts`; each line `-- @include x` becomes its `include/x.lua`.

        An include is expanded where it is first named and is empty from then on, so two includes may need the
        same third one. Errors: FileNotFoundError, when the package is incomplete.
        """
        return cls(
            Path(name).name, _expand((scripts / f"{name}.lua").read_text("utf-8"), scripts / "include", set())
        )

    async def __call__(
        self,
        client: redis.asyncio.Redis,
        keys: Sequence[str | bytes],
        args: Sequence[str | bytes | int | float],
    ) -> Any:
        """Run the script; on Redis Cluster all `keys` must share one slot."""
        run: Callable[..., Awaitable[Any]] = client.execute_command
        try:
            return await run("EVALSHA", self.sha, len(keys), *keys, *args)
        except NoScriptError:
            pass  # nothing ran: sending the source now cannot run it twice
        return await run("EVAL", self.source, len(keys), *keys, *args)

    def __repr__(self) -> str:
        return f"LuaScript({self.name!r}, {self.sha[:8]})"


def _expand(source: str, include_dir: Path, seen: set[str]) -> str:
    def text_of(line: re.Match[str]) -> str:
        name = line["name"]
        if name in seen:
            return ""
        seen.add(name)
        return _expand((include_dir / f"{name}.lua").read_text("utf-8"), include_dir, seen).rstrip("\n")

    return _INCLUDE.sub(text_of, source)
