"""Scripts are found, expanded once, called by hash, and survive a server that forgot them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from limiter.script import LuaScript


@pytest.fixture
def package(tmp_path: Path) -> Path:
    include = tmp_path / "include"
    include.mkdir(parents=True)
    (include / "one.lua").write_text("local one = 1\n")
    (include / "two.lua").write_text("-- @include one\nlocal two = one + one\n")
    (tmp_path / "sum.lua").write_text(
        "-- @include two\n-- @include one\nreturn {two, KEYS[1], ARGV[1], ARGV[2]}\n"
    )
    return tmp_path


def test_an_include_is_expanded_once_even_if_two_files_name_it(package: Path) -> None:
    source = LuaScript.load(package, "sum").source
    assert source.count("local one = 1") == 1
    assert source.index("local one") < source.index("local two") < source.index("return")
    assert "@include" not in source


def test_a_missing_include_is_found_when_the_package_is_loaded(package: Path) -> None:
    (package / "include" / "one.lua").unlink()
    with pytest.raises(FileNotFoundError, match=r"one\.lua"):
        LuaScript.load(package, "sum")


async def test_the_hash_is_the_servers_own(package: Path, redis: Redis) -> None:
    script = LuaScript.load(package, "sum")
    loaded: Any = await redis.script_load(script.source)
    assert loaded == script.sha


async def test_a_script_runs_before_and_after_the_server_forgot_it(package: Path, redis: Redis) -> None:
    script = LuaScript.load(package, "sum")
    expected = [2, b"key", b"7", b"text"]
    assert await script(redis, ["key"], [7, "text"]) == expected
    assert await script(redis, ["key"], [7, "text"]) == expected
    await redis.script_flush()
    assert await script(redis, ["key"], [7, "text"]) == expected


async def test_after_the_first_call_the_source_is_not_sent_again(package: Path, redis: Redis) -> None:
    script = LuaScript.load(package, "sum")
    await redis.config_resetstat()
    for _ in range(5):
        await script(redis, ["key"], [1, 2])
    stats = await redis.info("commandstats")
    assert (stats["cmdstat_evalsha"]["calls"], stats["cmdstat_eval"]["calls"]) == (5, 1)


async def test_an_error_of_a_script_keeps_its_text(redis: Redis) -> None:
    script = LuaScript("broken", "return redis.error_reply('IDCONFLICT the job is another one')")
    for _ in range(2):
        with pytest.raises(ResponseError, match="IDCONFLICT the job is another one"):
            await script(redis, [], [])


def test_a_function_that_is_never_called_is_left_out() -> None:
    source = """
-- `twice` and `once` name `idle` and each other in comments only: idle, once.
local function idle(n) return n end
local function once(n)
  return n and idle(n) or once(n)
end
local function twice(n) return n + n end
local function used(n)
  if n then return twice(n) end
end
return used(2)
"""
    kept = LuaScript("shaken", source).source
    assert re.findall(r"function (\w+)", kept) == ["twice", "used"]
    assert "--" not in kept
