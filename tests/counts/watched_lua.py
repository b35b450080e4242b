"""Runs the scripts in a Lua 5.1 of its own, as the server's is, and counts the instructions of each line.

`redis.call` goes to a real server, so the replies are real. Two things differ from the server: the clock, which moves
by a millisecond a script, and `cjson`, which is Python's and, as there, no Lua code.
"""

from __future__ import annotations

import hashlib
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import hiredis
import orjson
from lupa import lua51  # type: ignore[import-untyped]  # its types are a package of their own

from tests.counts.sources import Line, Source, source_of

STEP_US: Final = 1000
_MORE: Final = object()

# `run` is one script. Its instructions are counted by two numbers of lines in the text that was sent: of the line at
# which their function begins (0: none), times WIDTH, and their own. Those of the hook are not counted.
WIDTH: Final = 100_000
WATCH: Final = (
    b"local WIDTH = %d\n" % WIDTH
    + b"""
local getinfo, sethook, pcall = debug.getinfo, debug.sethook, pcall
local function load(text, name) return assert(loadstring(text, name)) end
local function watch(run, name)
  local counts = {}
  sethook(function()
    local at = getinfo(2, 'Sl')
    local place = at.linedefined * WIDTH + at.currentline
    if at.source == name then counts[place] = (counts[place] or 0) + 1 end
  end, '', 1)
  local ok, reply = pcall(run)
  sethook()
  return ok, reply, counts
end
return load, watch
"""
)


@dataclass(slots=True)
class Script:
    """The work of one script since the last `take`."""

    source: Source
    run: Any
    runs: int = 0
    lines: Counter[Line] = field(default_factory=Counter)  # instructions
    functions: Counter[Line | None] = field(default_factory=Counter)  # the same, by first line; None: outside
    commands: Counter[str] = field(default_factory=Counter)


class WatchedScripts:
    """The scripts of one server on this machine, by their hash. `now_us` is their clock, `locate` finds their files."""

    def __init__(self, port: int, now_us: int, locate: Callable[[str], Source] = source_of) -> None:
        self.now_us = now_us
        self._locate = locate
        self._by_sha: dict[bytes, Script] = {}
        self._servers = {protocol: _Server(port, protocol) for protocol in (2, 3)}
        self._protocol = 2
        self._running: Script | None = None
        self._lua = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._load, self._watch = self._lua.execute(WATCH)
        self._table = self._lua.table_from
        null = self._lua.eval(b"setmetatable({}, {})")
        globals_ = self._lua.globals()
        functions: dict[bytes, Callable[..., object]] = {
            b"call": self._call,
            b"pcall": self._pcall,
            b"setresp": self._set_protocol,
            b"sha1hex": lambda text: hashlib.sha1(text).hexdigest().encode(),
        }
        globals_[b"redis"] = self._table(functions)
        globals_[b"cjson"] = self._table({b"decode": self._decode, b"encode": _encode, b"null": null})
        self._null = null

    def close(self) -> None:
        for server in self._servers.values():
            server.close()

    def take(self) -> list[Script]:
        """The work of all scripts since the last `take`."""
        ran = [replace(script) for script in self._by_sha.values() if script.runs]
        for script in self._by_sha.values():
            script.runs, script.lines, script.functions, script.commands = 0, Counter(), Counter(), Counter()
        return ran

    def evaluate(self, words: list[bytes]) -> bytes:
        """The encoded reply to an EVALSHA or EVAL. Raises what a script raises, which ends a test."""
        sha = words[1].lower()
        if words[0].upper() == b"EVAL":
            sha = hashlib.sha1(words[1]).hexdigest().encode()
            if sha not in self._by_sha:
                self._by_sha[sha] = Script(self._locate(words[1].decode()), self._load(words[1], b"=" + sha))
        script = self._by_sha.get(sha)
        if script is None:
            return b"-NOSCRIPT No matching script.\r\n"
        keys = int(words[2])
        globals_ = self._lua.globals()
        globals_[b"KEYS"] = self._table(words[3 : 3 + keys])
        globals_[b"ARGV"] = self._table(words[3 + keys :])
        return self._run(script, b"=" + sha)

    def _run(self, script: Script, name: bytes) -> bytes:
        self.now_us += STEP_US
        self._protocol, self._running = 2, script
        ok, reply, counts = self._watch(script.run, name)
        if not ok:
            raise RuntimeError(f"{script.source.name}.lua has failed: {reply!r}")
        script.runs += 1
        lines = script.source.lines
        for place, instructions in counts.items():
            function, number = divmod(place, WIDTH)
            script.lines[lines[number - 1]] += instructions
            script.functions[lines[function - 1] if function else None] += instructions
        return _encoded(reply)

    def _call(self, *words: Any) -> Any:
        reply = self._reply(words)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return self._to_lua(reply)

    def _pcall(self, *words: Any) -> Any:
        reply = self._reply(words)
        if isinstance(reply, hiredis.ReplyError):
            return self._table({b"err": str(reply).encode()})
        return self._to_lua(reply)

    def _reply(self, words: tuple[Any, ...]) -> Any:
        command = words[0].upper().decode()
        if self._running is not None:
            self._running.commands[command] += 1
        if command == "TIME":
            seconds, micros = divmod(self.now_us, 1_000_000)
            return [b"%d" % seconds, b"%d" % micros]
        return self._servers[self._protocol].reply([_word(word) for word in words])

    def _set_protocol(self, protocol: float) -> None:
        self._protocol = int(protocol)

    def _to_lua(self, reply: Any) -> Any:
        """A reply as the server gives it to Lua."""
        match reply:
            case None:
                return False if self._protocol == 2 else None
            case b"OK":  # the one reply that is a status here
                return self._table({b"ok": reply})
            case list():
                return self._table([self._to_lua(each) for each in reply])
            case dict():
                return self._table({b"map": self._table(reply)})
        return reply

    def _decode(self, text: bytes) -> Any:
        return self._of_json(orjson.loads(text))

    def _of_json(self, value: Any) -> Any:
        match value:
            case None:
                return self._null
            case str():
                return value.encode()
            case list():
                return self._table([self._of_json(each) for each in value])
            case dict():
                return self._table({name.encode(): self._of_json(each) for name, each in value.items()})
        return value


class _Server:
    """One connection, on which each command waits for its reply."""

    def __init__(self, port: int, protocol: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self.reply([b"HELLO", b"%d" % protocol])

    def reply(self, words: list[bytes]) -> Any:
        self._socket.sendall(packed(words))
        while (reply := self._reader.gets()) is _MORE:
            self._reader.feed(self._socket.recv(65536))
        return reply

    def close(self) -> None:
        self._socket.close()


def packed(words: Sequence[bytes]) -> bytes:
    """A request as it is on the wire."""
    return b"*%d\r\n%b" % (len(words), b"".join(map(_encoded, words)))


def _word(word: Any) -> bytes:
    """An argument of redis.call as the server sends it on."""
    if isinstance(word, bytes):
        return word
    return b"%.17g" % word


def _encode(value: Any) -> bytes:
    return orjson.dumps(_json(value))


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if lua51.lua_type(value) != "table":
        return value
    fields = dict(value.items())
    if fields and all(isinstance(name, int) for name in fields):
        return [_json(fields[k]) for k in range(1, len(fields) + 1)]
    return {name.decode(): _json(each) for name, each in fields.items()}


def _encoded(value: Any) -> bytes:
    """The result of a script as its reply."""
    match value:
        case None | False:
            return b"$-1\r\n"
        case True:
            return b":1\r\n"
        case int() | float():
            return b":%d\r\n" % int(value)
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
    if value[b"err"] is not None:
        return b"-%b\r\n" % value[b"err"]
    if value[b"ok"] is not None:
        return b"+%b\r\n" % value[b"ok"]
    rows: list[bytes] = []
    while (row := value[len(rows) + 1]) is not None:
        rows.append(_encoded(row))
    return b"*%d\r\n%b" % (len(rows), b"".join(rows))
