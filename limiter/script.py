"""Calls Lua scripts: a `.lua` file becomes an awaitable object.

A script is called by its hash. If the server does not know it (first call, SCRIPT FLUSH, failover, restart), the same
call sends the source. No other module handles NOSCRIPT.

`uninterrupted` runs a call to its end even if its caller is cancelled: half a call would leave a charge that no process
knows of. The caller always receives its cancellation. A bare call of the library's client does not promise that: until
Python 3.12 its `wait_for` swallows a cancellation that comes together with the end of a send.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import redis.asyncio
from redis.exceptions import NoScriptError

T = TypeVar("T")

_INCLUDE = re.compile(r"^-- @include (?P<name>[a-z0-9_]+)[ \t]*$", re.MULTILINE)
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
# The parts of the limiter's decisions that scripts of others may include.
INCLUDES: Final = Path(__file__).parent / "scripts" / "include"
# A function at the left margin: all on one line, or up to an `end` at the left margin.
_FUNCTION = re.compile(r"^local function (?P<name>\w+)\((?:.*\bend|(?:.*\n)+?end)(?: *--.*)?\n", re.MULTILINE)
_WORD = re.compile(r"\w+")


class LuaScript:
    """One atomic step on the server, called like a coroutine function.

    Errors: those of the client; a script's own error keeps its text (`ResponseError`). A call is sent once by its
    hash. Only if the server did not know the hash and ran nothing, it is sent once more by its source.
    """

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self._whole = source

    @cached_property
    def source(self) -> str:
        """The text that is sent: without comments, and without functions that the script never calls.

        The server makes every function of a script anew on each call, and that takes longer than most of them run.
        """
        return _called(_COMMENT.sub("", self._whole))

    @cached_property
    def sha(self) -> str:
        """The name of the script on the server. Redis uses SHA-1; nothing is protected by it."""
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, scripts: Path, name: str, *shared: Path) -> LuaScript:
        """Read `{name}.lua` of the folder `scripts`; each line `-- @include x` becomes its `include/x.lua`.

        An include is expanded at its first line and is empty after that, so two includes may need the same third one.
        `shared` are further folders of includes.
        Errors: FileNotFoundError if the package is incomplete.
        """
        source = (scripts / f"{name}.lua").read_text("utf-8")
        return cls(Path(name).name, _expand(source, (scripts / "include", *shared), set()))

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


def _expand(source: str, folders: Sequence[Path], seen: set[str]) -> str:
    def text_of(line: re.Match[str]) -> str:
        name = line["name"]
        if name in seen:
            return ""
        seen.add(name)
        paths = [folder / f"{name}.lua" for folder in folders]
        path = next((path for path in paths if path.exists()), paths[0])
        return _expand(path.read_text("utf-8"), folders, seen).rstrip("\n")

    return _INCLUDE.sub(text_of, source)


def _called(source: str) -> str:
    """`source` without the functions that only themselves name, and, in turn, without those that only these named."""
    named = Counter(_WORD.findall(source))
    functions = {found["name"]: found[0] for found in _FUNCTION.finditer(source)}
    own = {name: Counter(_WORD.findall(text)) for name, text in functions.items()}
    while idle := [name for name in own if named[name] == own[name][name]]:
        for name in idle:
            named -= own.pop(name)
            source = source.replace(functions[name], "", 1)
    return source


async def uninterrupted(
    step: Coroutine[Any, Any, T], *, undo: Callable[[T], Awaitable[None]] | None = None
) -> T:
    """Run `step` to its end; a cancellation of the caller takes effect after it.

    `undo` takes back a result that a cancelled caller does not get.
    """
    task = asyncio.ensure_future(step)
    try:
        return await finished(task)
    except asyncio.CancelledError:
        if undo is not None and not task.cancelled() and task.exception() is None:
            await undo(task.result())
        raise


async def finished(task: asyncio.Task[T]) -> T:
    """The result of `task`, or, if the caller was cancelled, CancelledError once the task has ended."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:
            break
    if cancelled:
        with suppress(asyncio.CancelledError):
            task.exception()  # retrieved, so that asyncio does not report it as forgotten
        raise asyncio.CancelledError
    return task.result()
