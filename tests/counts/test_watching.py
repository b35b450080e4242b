"""The watched scripts do what the server's do, so what is counted in them is true."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hiredis
import pytest
from redis.asyncio import Redis

from daemon.queue import steps
from tests.counts.numbers import passed, watched
from tests.counts.sources import FILES, ROOT, Line, Source, source_of
from tests.counts.trips import paced_item
from tests.counts.watched_lua import WatchedScripts
from tests.servers import RedisServer

NOW_US = 1_795_000_000_000_003
SNIPPETS = [
    "return {1, 'a', false, 3.7, {}, {true}}",
    "return {redis.call('SET', 'k', 'v'), redis.call('GET', 'k'), redis.call('GET', 'missing')}",
    "redis.call('HSET', 'h', 'a', 1.5, 'b', 2) return redis.call('HGETALL', 'h')",
    "redis.call('HSET', 'h', 'a', 1) redis.setresp(3) local all = redis.call('HGETALL', 'h').map return all.a",
    "redis.call('SET', 'k', 'v') return redis.pcall('LLEN', 'k').err",
    "redis.call('ZADD', 'z', 1795000000000003, 'm') return redis.call('ZSCORE', 'z', 'm')",
    "return cjson.encode({a = {1, 2, 'x'}})",
    "local read = cjson.decode('[1,null,\"x\"]') return {read[1], read[2] == cjson.null, read[3]}",
    "return redis.sha1hex('')",
]


def own_source(text: str) -> Source:
    lines = text.split("\n")
    return Source("own", tuple(Line(ROOT / "own.lua", number, line) for number, line in enumerate(lines, 1)))


@pytest.fixture
def scripts(redis_server: RedisServer) -> Iterator[WatchedScripts]:
    scripts = WatchedScripts(redis_server.port, NOW_US, own_source)
    yield scripts
    scripts.close()


def reply(scripts: WatchedScripts, text: str) -> object:
    reader = hiredis.Reader()
    reader.feed(scripts.evaluate([b"EVAL", text.encode(), b"0"]))
    return reader.gets()


@pytest.mark.parametrize("text", SNIPPETS)
async def test_a_script_has_the_reply_of_the_server(redis: Redis, scripts: WatchedScripts, text: str) -> None:
    server: Any = redis
    assert reply(scripts, text) == await server.eval(text, 0)


async def test_each_turn_of_a_loop_is_counted_at_its_line(redis: Redis, scripts: WatchedScripts) -> None:
    def instructions_of(turns: int) -> dict[int, int]:
        reply(scripts, f"local sum = 0\nfor k = 1, {turns} do\n  sum = sum + k\nend\nreturn sum")
        (script,) = scripts.take()
        return {line.number: count for line, count in script.lines.items()}

    few, many = instructions_of(10), instructions_of(110)
    assert many[3] - few[3] == 100  # one ADD a turn
    assert few[1] == many[1] == 1
    assert few[5] == many[5]


async def test_a_script_sees_the_injected_time(redis: Redis, scripts: WatchedScripts) -> None:
    assert reply(scripts, "return redis.call('TIME')") == [b"1795000000", b"1003"]


def test_each_line_of_a_script_leads_to_its_file() -> None:
    for script in steps._SCRIPTS.values():
        source = source_of(script.source)
        assert source.name == script.name
        for line, text in zip(source.lines, script.source.rstrip("\n").split("\n"), strict=True):
            assert line.text == text
            assert line.text in ("", FILES[line.path].split("\n")[line.number - 1])


def test_watched_scripts_run_the_commands_that_the_server_runs(redis_server: RedisServer) -> None:
    trip = asyncio.run(passed(redis_server, paced_item))
    inside: Counter[str] = Counter()
    for script in asyncio.run(watched(redis_server, paced_item)):
        inside.update(script.commands)
    outside = Counter({name: count for name, count in trip.tally.requests.items() if name.isupper()})
    assert inside + outside == +trip.commands
