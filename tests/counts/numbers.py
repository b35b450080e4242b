"""The numbers that are guarded: how they are counted, kept in numbers.toml, and compared."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Final

from redis.asyncio import Redis

from tests.counts.trips import Trip, drain, paced_item
from tests.counts.watched_lua import Script, WatchedScripts
from tests.counts.wire import Wire
from tests.servers import RedisServer

FILE: Final = Path(__file__).parent / "numbers.toml"
DRAINED: Final = 320
# Times and durations have a digit more or fewer by chance.
BYTES_DIFFER: Final = 0.01

Way = Callable[[Wire, Redis], Awaitable[Trip]]
WAYS: Final[Mapping[str, Way]] = {"paced": paced_item, "drain": partial(drain, items=DRAINED)}


@dataclass(frozen=True, slots=True)
class Counted:
    """Numbers by their names, such as `paced.instructions.settle`; `scripts` says which scripts run a command."""

    numbers: dict[str, int]
    scripts: dict[str, str]

    def add(self, way: str, trip: Trip, watched: Sequence[Script]) -> None:
        totals = {
            f"{way}.round_trips": trip.tally.round_trips,
            f"{way}.bytes_sent": trip.tally.bytes_sent,
            f"{way}.bytes_received": trip.tally.bytes_received,
            f"{way}.all_commands": trip.commands.total(),
            f"{way}.all_instructions": sum(script.lines.total() for script in watched),
            f"{way}.lua_lines": len({line for script in watched for line in script.lines}),
        }
        self.numbers.update(totals)
        parts = {
            "before_call": trip.before_call,
            "requests": trip.tally.requests,
            "instructions": {script.source.name: script.lines.total() for script in watched},
            "commands": trip.commands,
        }
        for part, counts in parts.items():
            found = {f"{way}.{part}.{name}": counts[name] for name in sorted(counts) if counts[name]}
            self.numbers.update(found)
        for command in trip.commands:
            users = {script.source.name: script.commands[command] for script in watched}
            words = [
                f"{name} {users[name]}"
                for name in sorted(users, key=lambda name: -users[name])
                if users[name]
            ]
            self.scripts[f"{way}.commands.{command}"] = ", ".join(words)


async def counted(server: RedisServer) -> Counted:
    """All numbers, on a server that is emptied before each part."""
    counts = Counted({}, {})
    for name, way in WAYS.items():
        counts.add(name, await passed(server, way), await watched(server, way))
    return counts


async def passed(server: RedisServer, trip: Way) -> Trip:
    """The traffic on the wire."""
    async with _wire(server) as (wire, redis):
        return await trip(wire, redis)


async def watched(server: RedisServer, trip: Way) -> Sequence[Script]:
    """The work of the scripts."""
    scripts = WatchedScripts(server.port, time.time_ns() // 1000)
    try:
        async with _wire(server, scripts) as (wire, redis):
            return (await trip(wire, redis)).scripts
    finally:
        scripts.close()


@asynccontextmanager
async def _wire(
    server: RedisServer, scripts: WatchedScripts | None = None
) -> AsyncIterator[tuple[Wire, Redis]]:
    redis = Redis.from_url(server.url)
    await redis.flushall()
    await redis.script_flush()
    async with redis, Wire(server.port, scripts) as wire:
        yield wire, redis


def kept(text: str) -> dict[str, int]:
    """The numbers of such a file."""
    return dict(_flat("", tomllib.loads(text)))


def _flat(prefix: str, table: Mapping[str, object]) -> Iterator[tuple[str, int]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            assert isinstance(value, int)
            yield f"{prefix}{name}", value


def differences(before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    """A sentence for each number that is not what it was, and what to do."""
    pairs = {name: (before.get(name, 0), now.get(name, 0)) for name in sorted(before.keys() | now.keys())}
    changed = {name: pair for name, pair in pairs.items() if not _same(name, *pair)}
    grew = [
        f"{_subject(name)} grew from {was} to {is_}." for name, (was, is_) in changed.items() if is_ > was
    ]
    fell = [
        f"{_subject(name)} fell from {was} to {is_}." for name, (was, is_) in changed.items() if is_ < was
    ]
    return [*grew, *(GREW for _ in grew[:1]), *fell, *(FELL for _ in fell[:1])]


def _same(name: str, was: int, is_: int) -> bool:
    return abs(is_ - was) <= (was * BYTES_DIFFER if "bytes" in name else 0)


NO_REASON: Final = "new: say why"
GREW: Final = (
    "What grew costs each item more; `python -m tests.counts.profile` shows where Lua runs. If it is meant, accept it "
    "by `python -m tests.counts.dump`, and write the reason beside the number in tests/counts/numbers.toml."
)
FELL: Final = "Keep what fell: `python -m tests.counts.dump` lowers the number in tests/counts/numbers.toml."
SUBJECTS: Final = {
    "instructions": "Lua instructions of {}.lua",
    "requests": "requests of {}",
    "before_call": "requests of {} before the provider's first byte",
    "commands": "commands {} on the server",
}
TRIPS: Final = {"paced": "a paced item", "drain": f"a drain of {DRAINED} items"}


def _subject(name: str) -> str:
    """The name of a number in words."""
    trip, kind, *rest = name.split(".")
    words = SUBJECTS[kind].format(*rest) if rest else kind.replace("_", " ")
    return f"`{name}` ({words}, {TRIPS[trip]})"


def written(text: str, counts: Counted) -> str:
    """The file `text` with the present numbers. Its reasons stay; that of a command is which scripts run it."""
    before, reasons = kept(text), _reasons(text)
    tables: dict[str, list[str]] = {}
    for name, is_ in counts.numbers.items():
        number = before[name] if _same(name, before.get(name, 0), is_) else is_
        table, _, last = name.rpartition(".")
        reason = counts.scripts.get(name) or reasons.get(name, NO_REASON)
        tables.setdefault(table, []).append(f"{last} = {number}  # {reason}\n")
    head = "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
    return head + "\n".join(f"[{table}]\n{''.join(rows)}" for table, rows in tables.items())


def _reasons(text: str) -> dict[str, str]:
    """The comments beside the numbers of a file, by the names of the numbers."""
    reasons, table = {}, ""
    for line in text.splitlines():
        if heading := re.fullmatch(r"\[(.*)\]", line):
            table = heading[1]
        elif number := re.fullmatch(r"(\w+) = \d+  # (.*)", line):
            reasons[f"{table}.{number[1]}"] = number[2]
    return reasons
